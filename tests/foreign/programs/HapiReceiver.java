import ca.uhn.hl7v2.AcknowledgmentCode;
import ca.uhn.hl7v2.DefaultHapiContext;
import ca.uhn.hl7v2.HapiContext;
import ca.uhn.hl7v2.app.HL7Service;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.parser.CanonicalModelClassFactory;
import ca.uhn.hl7v2.protocol.ReceivingApplication;
import ca.uhn.hl7v2.util.Terser;
import ca.uhn.hl7v2.validation.impl.ValidationContextFactory;
import java.io.IOException;
import java.util.Map;

/** HAPI HL7v2's server: `HapiReceiver PORT CODE`; see `tests/foreign/receivers.py`. */
public final class HapiReceiver {
    public static void main(String[] arguments) throws Exception {
        System.setProperty("ca.uhn.hl7v2.llp.charset", "ISO-8859-1");
        HapiContext context = new DefaultHapiContext();
        context.setValidationContext(ValidationContextFactory.noValidation());
        context.setModelClassFactory(new CanonicalModelClassFactory("2.5.1"));
        HL7Service service = context.newServer(Integer.parseInt(arguments[0]), false);
        AcknowledgmentCode code = AcknowledgmentCode.valueOf(arguments[1]);
        service.registerApplication(new ReceivingApplication<Message>() {
            @Override
            public Message processMessage(Message message, Map<String, Object> metadata) {
                try {
                    Terser terser = new Terser(message);
                    System.out.println("{" + field("control_id", terser.get("/.MSH-10")) + ", " + field("event", terser.get("/.MSH-9-2"))
                            + ", " + field("patient", terser.get("/.PID-3-1")) + ", " + field("bed", terser.get("/.PV1-3-3")) + "}");
                    return message.generateACK(code, null);
                } catch (ca.uhn.hl7v2.HL7Exception | IOException error) {
                    throw new IllegalStateException(error);
                }
            }

            @Override
            public boolean canProcess(Message message) {
                return true;
            }
        });
        service.startAndWait();
        System.out.println("{\"ready\": true}");
    }

    private static String field(String name, String value) {
        return "\"" + name + "\": \"" + (value == null ? "" : value) + "\"";
    }
}
