import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;
import java.security.*;
import java.security.cert.*;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.*;
import java.util.concurrent.ConcurrentHashMap;
import javax.net.ssl.*;

/** A TLS peer that takes jobs from its standard input, one a line, and answers each with a line. */
public class Peer {
    static final byte[] ANSWER =
        "HTTP/1.0 200 ok\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n".getBytes(StandardCharsets.US_ASCII);
    static final Map<String, SSLServerSocket> SERVERS = new ConcurrentHashMap<>();

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            String said;
            try {
                said = "ok " + switch (words[0]) {
                    case "connect" -> connect(words[1], words[2], words[3], words[4], words[5]);
                    case "serve" -> serve(words[1], words[2], words[3]);
                    default -> stop(words[1]);
                };
            } catch (Exception error) {
                String text = error.toString();
                for (Throwable below = error.getCause(); below != null; below = below.getCause()) {
                    text += ": " + below;
                }
                said = "no " + text.replace('\n', ' ');
            }
            System.out.println(said);
            System.out.flush();
        }
        System.exit(0);
    }

    static byte[] text(String word) {
        return Base64.getDecoder().decode(word);
    }

    static X509Certificate[] certificates(String word) throws Exception {
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        Collection<? extends java.security.cert.Certificate> all =
            factory.generateCertificates(new ByteArrayInputStream(text(word)));
        return all.toArray(new X509Certificate[0]);
    }

    static SSLContext context(String trust, String chain, String key) throws Exception {
        TrustManager[] trusted = null;
        if (!trust.equals("-")) {
            KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
            store.load(null, null);
            int number = 0;
            for (X509Certificate certificate : certificates(trust)) {
                store.setCertificateEntry("ca" + number++, certificate);
            }
            TrustManagerFactory factory = TrustManagerFactory.getInstance("PKIX");
            factory.init(store);
            trusted = factory.getTrustManagers();
        }
        KeyManager[] own = chain.equals("-") ? null : new KeyManager[] {new Identity(certificates(chain), key(key))};
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(own, trusted, null);
        return context;
    }

    /** A P-256 key in the form of RFC 5915, which Java reads only inside PKCS#8. */
    static PrivateKey key(String word) throws Exception {
        String pem = new String(text(word), StandardCharsets.US_ASCII);
        byte[] inner = Base64.getMimeDecoder().decode(pem.replaceAll("-----[A-Z ]+-----", ""));
        byte[] head = HexFormat.of().parseHex("020100301306072a8648ce3d020106082a8648ce3d030107");
        ByteArrayOutputStream body = new ByteArrayOutputStream();
        body.write(head);
        element(body, 4, inner);
        ByteArrayOutputStream whole = new ByteArrayOutputStream();
        element(whole, 0x30, body.toByteArray());
        return KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(whole.toByteArray()));
    }

    static void element(ByteArrayOutputStream to, int tag, byte[] content) throws IOException {
        to.write(tag);
        if (content.length > 127) {
            to.write(0x81);
        }
        to.write(content.length);
        to.write(content);
    }

    static String connect(String port, String name, String trust, String chain, String key) throws Exception {
        try (Socket plain = new Socket("127.0.0.1", Integer.parseInt(port))) {
            plain.setSoTimeout(60_000);
            SSLContext context = context(trust, chain, key);
            SSLSocket link = (SSLSocket) context.getSocketFactory().createSocket(plain, name, Integer.parseInt(port), true);
            SSLParameters parameters = link.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            link.setSSLParameters(parameters);
            link.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
            link.getOutputStream().flush();
            StringBuilder said = new StringBuilder();
            try {
                byte[] buffer = new byte[4096];
                for (int n = link.getInputStream().read(buffer); n > 0; n = link.getInputStream().read(buffer)) {
                    said.append(new String(buffer, 0, n, StandardCharsets.ISO_8859_1));
                }
            } catch (IOException error) {
                if (said.length() == 0) {
                    throw error;
                }
            }
            if (!said.toString().toLowerCase(Locale.ROOT).contains("200 ok")) {
                throw new IOException("no answer");
            }
        }
        return "";
    }

    static String serve(String chain, String key, String clients) throws Exception {
        SSLContext context = context(clients, chain, key);
        SSLServerSocket listener = (SSLServerSocket) context.getServerSocketFactory()
            .createServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
        listener.setNeedClientAuth(!clients.equals("-"));
        String port = Integer.toString(listener.getLocalPort());
        SERVERS.put(port, listener);
        daemon(() -> {
            while (true) {
                try {
                    Socket link = listener.accept();
                    daemon(() -> welcome(link));
                } catch (IOException closed) {
                    return;
                }
            }
        });
        return port;
    }

    static String stop(String port) throws IOException {
        SERVERS.remove(port).close();
        return "";
    }

    static void daemon(Runnable work) {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        thread.start();
    }

    static void welcome(Socket socket) {
        try (Socket link = socket) {
            link.setSoTimeout(60_000);
            BufferedReader in = new BufferedReader(new InputStreamReader(link.getInputStream(), StandardCharsets.US_ASCII));
            for (String line = in.readLine(); line != null && !line.isEmpty(); line = in.readLine()) {
            }
            link.getOutputStream().write(ANSWER);
            link.getOutputStream().flush();
        } catch (IOException refused) {
            // The client is told by an alert.
        }
    }

    /** Always the one identity, whatever names the other end gives. */
    static class Identity extends X509ExtendedKeyManager {
        final X509Certificate[] chain;
        final PrivateKey key;

        Identity(X509Certificate[] chain, PrivateKey key) {
            this.chain = chain;
            this.key = key;
        }

        public String[] getClientAliases(String type, Principal[] issuers) {
            return new String[] {"own"};
        }

        public String chooseClientAlias(String[] types, Principal[] issuers, Socket socket) {
            return "own";
        }

        public String[] getServerAliases(String type, Principal[] issuers) {
            return new String[] {"own"};
        }

        public String chooseServerAlias(String type, Principal[] issuers, Socket socket) {
            return type.equals("EC") || type.startsWith("EC") ? "own" : null;
        }

        public X509Certificate[] getCertificateChain(String alias) {
            return chain;
        }

        public PrivateKey getPrivateKey(String alias) {
            return key;
        }
    }
}
