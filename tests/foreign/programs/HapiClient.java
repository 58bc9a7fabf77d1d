import ca.uhn.hl7v2.DefaultHapiContext;
import ca.uhn.hl7v2.HL7Exception;
import ca.uhn.hl7v2.HapiContext;
import ca.uhn.hl7v2.app.Connection;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.parser.CanonicalModelClassFactory;
import ca.uhn.hl7v2.util.Terser;
import ca.uhn.hl7v2.validation.impl.ValidationContextFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;

/** HAPI HL7v2: `HapiClient HOST PORT TLS ANSWERS FILE…`; see `tests/foreign/clients.py`. */
public final class HapiClient {
    private static final int TIMEOUT_MS = 15_000;
    private static final char QUOTE = '"';

    public static void main(String[] arguments) throws Exception {
        boolean tls = !arguments[2].equals("-");
        System.setProperty("ca.uhn.hl7v2.llp.charset", "ISO-8859-1");
        try (HapiContext context = new DefaultHapiContext()) {
            context.setValidationContext(ValidationContextFactory.noValidation());
            context.setModelClassFactory(new CanonicalModelClassFactory("2.5.1"));
            Connection connection = context.newClient(arguments[0], Integer.parseInt(arguments[1]), tls);
            connection.getInitiator().setTimeoutMillis(TIMEOUT_MS);
            for (String file : List.of(arguments).subList(4, arguments.length)) {
                if (!connection.isOpen()) {
                    connection = context.newClient(arguments[0], Integer.parseInt(arguments[1]), tls);
                    connection.getInitiator().setTimeoutMillis(TIMEOUT_MS);
                }
                System.out.println(exchange(context, connection, Path.of(file)));
            }
            connection.close();
        }
        System.exit(0);
    }

    private static String exchange(HapiContext context, Connection connection, Path file) throws Exception {
        String name = "{" + field("file", file.getFileName().toString());
        Message answer;
        try {
            Message message = context.getPipeParser().parse(Files.readString(file, StandardCharsets.ISO_8859_1));
            answer = connection.getInitiator().sendAndReceive(message);
        } catch (HL7Exception | RuntimeException notTheirs) {
            return name + ", " + field("failed", notTheirs.getClass().getSimpleName()) + "}";
        }
        Terser terser = new Terser(answer);
        String said = field("code", terser.get("/MSA-1")) + ", " + field("control_id", terser.get("/MSA-2"));
        if (answer.encode().contains("\rERR|")) {
            said += ", " + field("error", terser.get("/ERR-3-1")) + ", " + field("reason", terser.get("/ERR-5-1"));
        }
        byte[] text = answer.encode().getBytes(StandardCharsets.ISO_8859_1);
        return name + ", \"answers\": [{" + said + ", " + field("hex", HexFormat.of().formatHex(text)) + "}]}";
    }

    private static String field(String name, String value) {
        return QUOTE + name + QUOTE + ": " + QUOTE + (value == null ? "" : value) + QUOTE;
    }
}
