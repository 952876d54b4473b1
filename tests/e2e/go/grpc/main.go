// grpc-go as a server (`grpc server PORT`) and as a client (`grpc client HOST:PORT SERVICE [CA]`).
// What both do is in ../../grpc_peer.py; messages are bytes.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Bytes as they are; the health service has messages of its own.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(value any) ([]byte, error) {
	if message, ok := value.(proto.Message); ok {
		return proto.Marshal(message)
	}
	return *value.(*[]byte), nil
}

func (raw) Unmarshal(data []byte, value any) error {
	if message, ok := value.(proto.Message); ok {
		return proto.Unmarshal(data, message)
	}
	*value.(*[]byte) = append([]byte{}, data...)
	return nil
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

var cancelled atomic.Int64

func serve(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	ctx := stream.Context()
	asked, _ := metadata.FromIncomingContext(ctx)
	receive := func() ([]byte, error) {
		var message []byte
		err := stream.RecvMsg(&message)
		return message, err
	}
	send := func(message []byte) error { return stream.SendMsg(&message) }
	if method == "/t.T/ClientStream" {
		total := 0
		for {
			message, err := receive()
			if err == io.EOF {
				return send([]byte(strconv.Itoa(total)))
			}
			if err != nil {
				return err
			}
			total += len(message)
		}
	}
	if method == "/t.T/Bidi" {
		for {
			message, err := receive()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := send(message); err != nil {
				return err
			}
		}
	}
	message, err := receive()
	if err != nil {
		return err
	}
	switch method {
	case "/t.T/Unary":
		stream.SetHeader(metadata.Pairs("x-seen", strings.Join(asked.Get("x-ask"), ",")))
		stream.SetTrailer(metadata.Pairs("x-last-bin", "\x00\xff"))
		return send(message)
	case "/t.T/ServerStream":
		count, err := strconv.Atoi(string(message))
		check(err)
		for number := 0; number < count; number++ {
			if err := send([]byte(strconv.Itoa(number))); err != nil {
				return err
			}
		}
		return nil
	case "/t.T/Fail":
		return status.Error(codes.NotFound, "no 100 % ünique thing")
	case "/t.T/Left":
		deadline, _ := ctx.Deadline()
		return send([]byte(strconv.Itoa(int(time.Until(deadline).Milliseconds()))))
	case "/t.T/Slow":
		<-ctx.Done()
		cancelled.Add(1)
		return ctx.Err()
	case "/t.T/Cancelled":
		return send([]byte(strconv.FormatInt(cancelled.Load(), 10)))
	}
	return status.Error(codes.Unimplemented, method)
}

func server(port string) {
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	check(err)
	serving := grpc.NewServer(grpc.UnknownServiceHandler(serve))
	grpc_health_v1.RegisterHealthServer(serving, health.NewServer())
	check(serving.Serve(listener))
}

type caller struct {
	connection *grpc.ClientConn
	service    string
}

func (c caller) stream(ctx context.Context, method string) grpc.ClientStream {
	description := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	ctx = metadata.AppendToOutgoingContext(ctx, "x-service", c.service)
	stream, err := c.connection.NewStream(ctx, description, "/t.T/"+method)
	check(err)
	return stream
}

func (c caller) unary(
	ctx context.Context, method string, message []byte, options ...grpc.CallOption,
) ([]byte, error) {
	var answer []byte
	ctx = metadata.AppendToOutgoingContext(ctx, "x-service", c.service)
	err := c.connection.Invoke(ctx, "/t.T/"+method, &message, &answer, options...)
	return answer, err
}

func (c caller) cancelled() int {
	answer, err := c.unary(context.Background(), "Cancelled", nil)
	check(err)
	count, err := strconv.Atoi(string(answer))
	check(err)
	return count
}

// Prints the name of what was asked for, once it was as it should be.
func said(name string, right bool, seen ...any) {
	if !right {
		panic(fmt.Sprint(name, ": ", seen))
	}
	fmt.Println(name)
}

func client(address, service string, ca []string) {
	security := insecure.NewCredentials()
	if len(ca) > 0 {
		trusted, err := credentials.NewClientTLSFromFile(ca[0], "www.example.com")
		check(err)
		security = trusted
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(security))
	check(err)
	c := caller{connection, service}
	background := context.Background()

	var head, trailer metadata.MD
	asking := metadata.AppendToOutgoingContext(background, "x-ask", "a", "x-ask", "b")
	answer, err := c.unary(asking, "Unary", []byte("hello"), grpc.Header(&head), grpc.Trailer(&trailer))
	check(err)
	seen := strings.ReplaceAll(strings.Join(head.Get("x-seen"), ""), " ", "")
	last := strings.Join(trailer.Get("x-last-bin"), "")
	said("unary", string(answer) == "hello" && seen == "a,b" && last == "\x00\xff", answer, head, trailer)

	long := make([]byte, 3<<20)
	for at := range long {
		long[at] = byte(at * 7)
	}
	answer, err = c.unary(background, "Unary", long)
	check(err)
	said("large", string(answer) == string(long), len(answer))

	stream := c.stream(background, "ServerStream")
	hundred := []byte("100")
	check(stream.SendMsg(&hundred))
	check(stream.CloseSend())
	count := 0
	for {
		err := stream.RecvMsg(&answer)
		if err == io.EOF {
			break
		}
		check(err)
		if string(answer) != strconv.Itoa(count) {
			panic(string(answer))
		}
		count++
	}
	said("server stream", count == 100, count)

	stream = c.stream(background, "ClientStream")
	piece := make([]byte, 1000)
	for number := 0; number < 100; number++ {
		check(stream.SendMsg(&piece))
	}
	check(stream.CloseSend())
	check(stream.RecvMsg(&answer))
	said("client stream", string(answer) == "100000", string(answer))

	stream = c.stream(background, "Bidi")
	for number := 0; number < 20; number++ {
		message := []byte(strconv.Itoa(number))
		check(stream.SendMsg(&message))
		check(stream.RecvMsg(&answer))
		if string(answer) != strconv.Itoa(number) {
			panic(string(answer))
		}
	}
	check(stream.CloseSend())
	said("bidi", stream.RecvMsg(&answer) == io.EOF)

	_, err = c.unary(background, "Fail", nil)
	failure := status.Convert(err)
	said("fail", failure.Code() == codes.NotFound && failure.Message() == "no 100 % ünique thing", err)

	limited, done := context.WithTimeout(background, 20*time.Second)
	answer, err = c.unary(limited, "Left", nil)
	done()
	check(err)
	left, err := strconv.Atoi(string(answer))
	check(err)
	said("left", 0 < left && left <= 21000, left)

	before := c.cancelled()
	short, done := context.WithTimeout(background, 300*time.Millisecond)
	_, err = c.unary(short, "Slow", nil)
	done()
	said("deadline", status.Code(err) == codes.DeadlineExceeded, err)
	err = nil
	for err == nil || c.cancelled() < before+2 { // One may be gone before it is there.
		leaving, leave := context.WithCancel(background)
		stream = c.stream(leaving, "Slow")
		check(stream.SendMsg(&hundred))
		check(stream.CloseSend())
		time.AfterFunc(100*time.Millisecond, leave)
		err = stream.RecvMsg(&answer)
		leave()
	}
	said("cancel", status.Code(err) == codes.Canceled, err)
	connection.Close()
}

func main() {
	encoding.RegisterCodec(raw{})
	if os.Args[1] == "server" {
		server(os.Args[2])
	} else {
		client(os.Args[2], os.Args[3], os.Args[4:])
	}
}
