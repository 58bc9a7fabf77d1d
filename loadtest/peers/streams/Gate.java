import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.api.RecordMetadata;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The gate's work on Kafka Streams, for `surgeline bench gate --peer streams`: the same verdicts, encodings and topics.
 *
 * <p>Written as Kafka's guide has it: one processor with a persistent store that keeps a changelog, and a sink per output topic.
 * What it is given is in `Gate JOB.json`, which pipeline/local/bench/gate/streams.py writes; Kafka's own options are in it too.
 */
public final class Gate {
    private static final String HEADS = "heads";
    private static final String DECISIONS = "decisions";
    private static final String ACCEPTED = "accepted";
    private static final Duration CLOSE_TIMEOUT = Duration.ofSeconds(20);

    private Gate() {}

    /** Judges one record at a time. */
    private static final class Judging implements Processor<byte[], byte[], byte[], byte[]> {
        private final Judge judge;
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<byte[], byte[]> heads;

        Judging(Judge judge) {
            this.judge = judge;
        }

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            heads = context.getStateStore(HEADS);
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            RecordMetadata from = context.recordMetadata().orElseThrow();
            Judge.At at = new Judge.At(from.topic(), from.partition(), from.offset(), record.timestamp());
            Judge.Verdict verdict = judge.judge(at, record.key(), record.value(), heads.get(record.key()));
            if (verdict == null) return;
            if (verdict.head() != null) heads.put(record.key(), verdict.head());
            Record<byte[], byte[]> output = record.withValue(verdict.output());
            context.forward(output, verdict.lane() == null ? DECISIONS : ACCEPTED);
            if (verdict.lane() != null) context.forward(output, verdict.lane());
        }
    }

    /** Serves until SIGTERM; ends with status 1 where a record could not be judged. */
    public static void main(String[] arguments) throws IOException, InterruptedException {
        JsonNode job = new ObjectMapper().readTree(new File(arguments[0]));
        Properties options = new Properties();
        job.get("options").properties().forEach(each -> options.put(each.getKey(), each.getValue().asText()));
        KafkaStreams streams = new KafkaStreams(topology(job), options);
        CountDownLatch ended = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            ended.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(CLOSE_TIMEOUT)));
        streams.start();
        ended.await();
        System.exit(1);
    }

    private static Topology topology(JsonNode job) {
        List<String> landing = new ArrayList<>();
        job.get("landing").fieldNames().forEachRemaining(landing::add);
        Topology made = new Topology();
        made.addSource("landing", new ByteArrayDeserializer(), new ByteArrayDeserializer(), landing.toArray(String[]::new));
        made.addProcessor("gate", () -> new Judging(new Judge(job)), "landing");
        // Cached, so that the changelog gets one record of an entity for a commit, as in the other workers.
        made.addStateStore(
            Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(HEADS), Serdes.ByteArray(), Serdes.ByteArray())
                .withLoggingEnabled(Map.of())
                .withCachingEnabled(),
            "gate"
        );
        job.get("outputs").properties().forEach(each -> made.addSink(
            each.getKey(), each.getValue().asText(), new ByteArraySerializer(), new ByteArraySerializer(), "gate"
        ));
        return made;
    }
}
