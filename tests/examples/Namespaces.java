// A suite in Java, with the JDK alone: `rayplane test-env run -- java Namespaces.java`, or `java Namespaces.java`, which
// starts a cluster itself. It ends with this process. With fabric8 it is `new KubernetesClientBuilder().build()`, which
// reads KUBECONFIG too.
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Namespaces {
    public static void main(String[] arguments) throws Exception {
        Namespaces cluster = new Namespaces(kubeconfig());
        HttpResponse<String> made = cluster.ask("POST", "/api/v1/namespaces", "{\"metadata\": {\"name\": \"from-java\"}}");
        check(made.statusCode() == 201, made.body());
        HttpResponse<String> again = cluster.ask("GET", "/api/v1/namespaces/from-java", "");
        check(again.statusCode() == 200 && again.body().contains("\"from-java\""), again.body());
        System.out.println("a namespace is made, and can be found");
    }

    /** Of the cluster that `rayplane test-env run` gives, else of one that ends with this process. */
    private static String kubeconfig() throws IOException {
        if ("true".equals(System.getenv("USE_EXISTING_CLUSTER"))) {
            return Files.readString(Path.of(System.getenv("KUBECONFIG")));
        }
        ProcessBuilder start = new ProcessBuilder("rayplane", "test-env", "start", "--kubeconfig", "-");
        Process starting = start.redirectError(ProcessBuilder.Redirect.INHERIT).start();
        return new String(starting.getInputStream().readAllBytes());
    }

    private final String kubeconfig;
    private final HttpClient client;

    private Namespaces(String kubeconfig) throws Exception {
        this.kubeconfig = kubeconfig;
        CertificateFactory certificates = CertificateFactory.getInstance("X.509");
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        byte[] authority = bytes("certificate-authority-data");
        trusted.setCertificateEntry("authority", certificates.generateCertificate(new ByteArrayInputStream(authority)));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);

        byte[] certificate = bytes("client-certificate-data");
        String pem = new String(bytes("client-key-data")).replaceAll("-----[A-Z ]+-----|\\s", "");
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, null);
        own.setKeyEntry(
            "client",
            KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem))),
            new char[0],
            certificates.generateCertificates(new ByteArrayInputStream(certificate)).toArray(new Certificate[0]));
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, new char[0]);

        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        client = HttpClient.newBuilder().sslContext(context).build();
    }

    private HttpResponse<String> ask(String method, String path, String body) throws Exception {
        HttpRequest.Builder asking = HttpRequest.newBuilder(URI.create(said("server") + path));
        asking.header("Content-Type", "application/json").method(method, BodyPublishers.ofString(body));
        return client.send(asking.build(), BodyHandlers.ofString());
    }

    private byte[] bytes(String field) {
        return Base64.getDecoder().decode(said(field));
    }

    private String said(String field) {
        var found = Pattern.compile(field + ": (\\S+)").matcher(kubeconfig);
        check(found.find(), "the kubeconfig has no " + field);
        return found.group(1);
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
