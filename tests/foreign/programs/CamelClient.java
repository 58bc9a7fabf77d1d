import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;
import org.apache.camel.Exchange;
import org.apache.camel.ProducerTemplate;
import org.apache.camel.component.mllp.MllpConstants;
import org.apache.camel.component.mllp.MllpNegativeAcknowledgementException;
import org.apache.camel.impl.DefaultCamelContext;
import org.apache.camel.support.jsse.KeyManagersParameters;
import org.apache.camel.support.jsse.KeyStoreParameters;
import org.apache.camel.support.jsse.SSLContextParameters;
import org.apache.camel.support.jsse.TrustManagersParameters;

/** Apache Camel's producer: `CamelClient HOST PORT TLS ANSWERS FILE…`; see `tests/foreign/clients.py`. */
public final class CamelClient {
    private static final String PASSWORD = "of-this-test-only";

    public static void main(String[] arguments) throws Exception {
        String to = "mllp://" + arguments[0] + ":" + arguments[1] + "?receiveTimeout=30000&charsetName=ISO-8859-1";
        try (DefaultCamelContext context = new DefaultCamelContext()) {
            if (!arguments[2].equals("-")) {
                context.getRegistry().bind("tls", tls(Path.of(arguments[2])));
                to += "&sslContextParameters=#tls";
            }
            context.start();
            ProducerTemplate producer = context.createProducerTemplate();
            for (String file : List.of(arguments).subList(4, arguments.length)) {
                byte[] message = Files.readAllBytes(Path.of(file));
                Exchange exchange = producer.send(to, sent -> sent.getIn().setBody(message));
                System.out.println("{" + field("file", Path.of(file).getFileName().toString()) + ", " + said(exchange) + "}");
            }
        }
        System.exit(0);
    }

    /** A refusal is an exception there, with the acknowledgement in it. */
    private static String said(Exchange exchange) {
        Exception error = exchange.getException();
        String code;
        byte[] text;
        if (error instanceof MllpNegativeAcknowledgementException refused) {
            code = refused.getAcknowledgmentType();
            text = refused.getHl7AcknowledgementBytes();
        } else if (error != null) {
            return field("failed", error.getClass().getSimpleName());
        } else {
            code = exchange.getMessage().getHeader(MllpConstants.MLLP_ACKNOWLEDGEMENT_TYPE, String.class);
            text = exchange.getMessage().getHeader(MllpConstants.MLLP_ACKNOWLEDGEMENT, byte[].class);
        }
        return "\"answers\": [{" + field("code", code) + ", " + field("hex", HexFormat.of().formatHex(text)) + "}]";
    }

    private static SSLContextParameters tls(Path folder) {
        SSLContextParameters parameters = new SSLContextParameters();
        TrustManagersParameters trust = new TrustManagersParameters();
        trust.setKeyStore(store(folder.resolve("trust.p12")));
        parameters.setTrustManagers(trust);
        if (Files.exists(folder.resolve("client.p12"))) {
            KeyManagersParameters keys = new KeyManagersParameters();
            keys.setKeyStore(store(folder.resolve("client.p12")));
            keys.setKeyPassword(PASSWORD);
            parameters.setKeyManagers(keys);
        }
        return parameters;
    }

    private static KeyStoreParameters store(Path file) {
        KeyStoreParameters store = new KeyStoreParameters();
        store.setResource("file:" + file);
        store.setPassword(PASSWORD);
        store.setType("PKCS12");
        return store;
    }

    private static String field(String name, String value) {
        return '"' + name + "\": \"" + value + '"';
    }
}
