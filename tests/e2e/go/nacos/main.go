// Nacos' own client against the member at 127.0.0.1:PORT: prints the names of all services, then
// each list of instances of `users` that it is told, a line each. It registers an instance there
// when it reads a line, and takes it back at the next.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/nacos-group/nacos-sdk-go/v2/clients"
	"github.com/nacos-group/nacos-sdk-go/v2/common/constant"
	"github.com/nacos-group/nacos-sdk-go/v2/model"
	"github.com/nacos-group/nacos-sdk-go/v2/vo"
)

const service = "users"

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	port, err := strconv.ParseUint(os.Args[1], 10, 16)
	check(err)
	directory := os.Args[2]
	client, err := clients.NewNamingClient(vo.NacosClientParam{
		ClientConfig: constant.NewClientConfig(
			constant.WithNotLoadCacheAtStart(true),
			constant.WithUpdateCacheWhenEmpty(true),
			constant.WithLogDir(directory),
			constant.WithCacheDir(directory),
			constant.WithUsername("proxy"),
			constant.WithPassword("secret"),
		),
		ServerConfigs: []constant.ServerConfig{*constant.NewServerConfig("127.0.0.1", port)},
	})
	check(err)
	names, err := client.GetAllServicesInfo(vo.GetAllServiceInfoParam{PageNo: 1, PageSize: 10})
	check(err)
	fmt.Println("names", names.Count, strings.Join(names.Doms, " "))
	var printing sync.Mutex
	check(client.Subscribe(&vo.SubscribeParam{
		ServiceName: service,
		SubscribeCallback: func(instances []model.Instance, err error) {
			ports := []string{}
			for _, one := range instances {
				ports = append(ports, fmt.Sprint(one.Ip, ":", one.Port))
			}
			sort.Strings(ports)
			printing.Lock()
			defer printing.Unlock()
			fmt.Println("told", strings.Join(ports, " "))
		},
	}))
	lines := bufio.NewScanner(os.Stdin)
	lines.Scan()
	_, err = client.RegisterInstance(vo.RegisterInstanceParam{
		Ip: "10.0.0.9", Port: 9000, ServiceName: service, Weight: 2, Enable: true, Healthy: true,
		Ephemeral: true, Metadata: map[string]string{"zone": "b"},
	})
	check(err)
	lines.Scan()
	_, err = client.DeregisterInstance(vo.DeregisterInstanceParam{
		Ip: "10.0.0.9", Port: 9000, ServiceName: service, Ephemeral: true,
	})
	check(err)
	lines.Scan()
}
