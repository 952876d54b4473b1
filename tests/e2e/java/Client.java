// Java's HttpClient over TLS against BASE, which the authority in the PEM file CA has signed; prints
// what it saw, a line each.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Client {
    public static void main(String[] arguments) throws Exception {
        String base = arguments[0];
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (var pem = Files.newInputStream(Path.of(arguments[1]))) {
            var factory = CertificateFactory.getInstance("X.509");
            trusted.setCertificateEntry("ca", factory.generateCertificate(pem));
        }
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(trusted);
        for (String protocol : new String[] {"TLSv1.2", "TLSv1.3"}) {
            SSLContext context = SSLContext.getInstance(protocol);
            context.init(null, managers.getTrustManagers(), null);
            HttpClient client = HttpClient.newBuilder().sslContext(context).build();
            for (int i = 0; i < 5; i++) {
                var asked = HttpRequest.newBuilder(URI.create(base + "page")).build();
                var answer = client.send(asked, HttpResponse.BodyHandlers.ofByteArray());
                System.out.println(answer.sslSession().get().getProtocol()
                    + " GET " + answer.statusCode() + " " + answer.body().length + " "
                    + answer.version());
            }
            byte[] body = new byte[1 << 20];
            Arrays.fill(body, (byte) 'j');
            var asked = HttpRequest.newBuilder(URI.create(base + "echo"))
                .POST(HttpRequest.BodyPublishers.ofByteArray(body)).build();
            var answer = client.send(asked, HttpResponse.BodyHandlers.ofByteArray());
            System.out.println(protocol + " POST " + answer.statusCode() + " "
                + Arrays.equals(body, answer.body()));
        }
    }
}
