import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The verdicts by themselves, without Kafka: `Alone JOB.json RECORDS VERDICTS`.
 *
 * <p>RECORDS: how many there are and how many of them come before the measurement (two ints), then each: topic, partition (int),
 * offset and timestamp (longs), key and value (each an int for its length, then its bytes). VERDICTS gets one for each: an int
 * for its length, 0 for none, its bytes, and the lane. What is printed is the processor time of a measured record in µs.
 */
public final class Alone {
    private Alone() {}

    private record Landed(Judge.At at, byte[] key, byte[] value) {}

    private record Measured(double us, double headBytes) {}

    public static void main(String[] arguments) throws IOException {
        Judge judge = new Judge(new ObjectMapper().readTree(new File(arguments[0])));
        List<Landed> records = new ArrayList<>();
        int before = read(Path.of(arguments[1]), records);
        try (OutputStream file = new BufferedOutputStream(Files.newOutputStream(Path.of(arguments[2])))) {
            Measured measured = judged(judge, records, before, new DataOutputStream(file));
            System.out.println("{\"us\": " + measured.us + ", \"head_bytes\": " + measured.headBytes + "}");
        }
    }

    private static Measured judged(Judge judge, List<Landed> records, int before, DataOutputStream out) throws IOException {
        Map<ByteBuffer, byte[]> heads = new HashMap<>();
        List<Judge.Verdict> verdicts = new ArrayList<>(records.size());
        long began = 0;
        for (int i = 0; i < records.size(); i++) {
            if (i == before) began = processorNs();
            Landed record = records.get(i);
            ByteBuffer key = ByteBuffer.wrap(record.key);
            Judge.Verdict verdict = judge.judge(record.at, record.key, record.value, heads.get(key));
            if (verdict != null && verdict.head() != null) heads.put(key, verdict.head());
            verdicts.add(verdict == null ? null : new Judge.Verdict(null, verdict.output(), verdict.lane()));
        }
        double us = (processorNs() - began) / 1e3 / Math.max(1, records.size() - before);
        for (Judge.Verdict verdict : verdicts) {
            out.writeInt(verdict == null ? 0 : verdict.output().length);
            if (verdict == null) continue;
            out.write(verdict.output());
            out.writeUTF(verdict.lane() == null ? "" : verdict.lane());
        }
        return new Measured(us, heads.values().stream().mapToInt(head -> head.length).average().orElse(0));
    }

    private static int read(Path file, List<Landed> records) throws IOException {
        try (DataInputStream in = new DataInputStream(new BufferedInputStream(Files.newInputStream(file)))) {
            int count = in.readInt();
            int before = in.readInt();
            for (int i = 0; i < count; i++) {
                Judge.At at = new Judge.At(in.readUTF(), in.readInt(), in.readLong(), in.readLong());
                records.add(new Landed(at, in.readNBytes(in.readInt()), in.readNBytes(in.readInt())));
            }
            return before;
        }
    }

    /** Of this thread: the compiler's and the collector's are in the worker's figure, not in the decision's. */
    private static long processorNs() {
        return ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime();
    }
}
