import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * The latest state of one entity, in the bytes of pipeline/domain/head.py: a version, then MessagePack of the fields in their
 * order. What a merge leaves in a head is not in the bench's load, and is refused. The ring of recent events stays the bytes
 * that it is: each event is an array of its id and its content, two binaries of known length.
 */
final class Head {
    static final int VERSION = 1;
    static final int RING_LENGTH = 16;
    private static final int FIELDS = 15;
    private static final int ID_BYTES = 16;
    private static final int CONTENT_BYTES = 8;
    private static final int ID_AT = 3;
    private static final int SEEN_BYTES = ID_AT + ID_BYTES + 2 + CONTENT_BYTES;

    /** Where a field's value comes from, and when; `sequence` is null where the source has none. */
    record Clock(String source, String feed, long rank, long recorded, Long sequence, long floor) {}

    long epoch;
    long position;
    long revision;
    String stateHash;
    String facility;
    Object[] state;
    Map<String, Clock> clocks;
    byte[] ring;
    String eventId;
    String contentHash;
    long recordedAt;
    long receivedAt;

    long at() {
        return epoch << Judge.OFFSET_BITS | position;
    }

    // -- reading

    static Head read(byte[] data, String type, Shape payload) {
        Bytes.In in = new Bytes.In(data, 1);
        if (data[0] != VERSION || size(in, 0x90, 0xdc) != FIELDS) throw new IllegalStateException("a head of another version");
        Head head = new Head();
        head.epoch = number(in);
        head.position = number(in);
        head.revision = number(in);
        head.stateHash = text(in);
        head.facility = text(in);
        head.state = state(in, type, payload);
        head.clocks = clocks(in);
        head.ring = in.some(SEEN_BYTES * size(in, 0x90, 0xdc));
        head.eventId = text(in);
        head.contentHash = text(in);
        head.recordedAt = number(in);
        head.receivedAt = number(in);
        if (in.one() != 0xc0 || size(in, 0x90, 0xdc) != 0 || in.one() != 0xc0 || !in.ended()) {
            throw new IllegalStateException("the twin knows no merges");
        }
        return head;
    }

    private static Object[] state(Bytes.In in, String type, Shape payload) {
        int size = size(in, 0x80, 0xde);
        if (!text(in).equals("type") || !text(in).equals(type)) throw new IllegalStateException("a head of another type");
        return fields(in, payload, size - 1);
    }

    private static Object[] fields(Bytes.In in, Shape shape, int size) {
        Object[] made = new Object[shape.fields.length];
        for (int i = 0; i < size; i++) {
            int index = shape.index(text(in));
            made[index] = value(in, shape.fields[index].shape());
        }
        return made;
    }

    private static Object value(Bytes.In in, Shape shape) {
        if (in.peek() == 0xc0) {
            in.one();
            return Shape.CLEARED;
        }
        return switch (shape.kind) {
            case STRING -> text(in);
            case ENUM -> shape.symbols[shape.index(text(in))];
            case LONG -> number(in);
            case BOOLEAN -> in.one() == 0xc3;
            case RECORD -> fields(in, shape, size(in, 0x80, 0xde));
            default -> throw new IllegalStateException("the twin keeps no " + shape.name);
        };
    }

    private static Map<String, Clock> clocks(Bytes.In in) {
        Map<String, Clock> made = new LinkedHashMap<>();
        for (int left = size(in, 0x80, 0xde); left > 0; left--) {
            String name = text(in);
            size(in, 0x90, 0xdc);
            made.put(name, new Clock(text(in), text(in), number(in), number(in), optional(in), number(in)));
        }
        return made;
    }

    // -- the ring

    static byte[] seen(String eventId, String contentHash) {
        byte[] made = new byte[SEEN_BYTES];
        made[0] = (byte) 0x92;
        made[1] = (byte) 0xc4;
        made[2] = ID_BYTES;
        System.arraycopy(HexFormat.of().parseHex(eventId), 0, made, ID_AT, ID_BYTES);
        made[ID_AT + ID_BYTES] = (byte) 0xc4;
        made[ID_AT + ID_BYTES + 1] = CONTENT_BYTES;
        System.arraycopy(HexFormat.of().parseHex(contentHash), 0, made, SEEN_BYTES - CONTENT_BYTES, CONTENT_BYTES);
        return made;
    }

    /** Where the event with the id of `seen` is in the ring; -1 where it isn't. */
    int find(byte[] seen) {
        int to = ID_AT + ID_BYTES;
        for (int at = 0; at < ring.length; at += SEEN_BYTES) {
            if (Arrays.equals(ring, at + ID_AT, at + to, seen, ID_AT, to)) return at;
        }
        return -1;
    }

    boolean sameContent(int at, byte[] seen) {
        return Arrays.equals(ring, at, at + SEEN_BYTES, seen, 0, SEEN_BYTES);
    }

    /** The ring with one event more, without the oldest where it is full. */
    static byte[] rung(byte[] ring, byte[] seen) {
        int from = ring.length == RING_LENGTH * SEEN_BYTES ? SEEN_BYTES : 0;
        byte[] made = Arrays.copyOfRange(ring, from, ring.length + SEEN_BYTES);
        System.arraycopy(seen, 0, made, made.length - SEEN_BYTES, SEEN_BYTES);
        return made;
    }

    private static int size(Bytes.In in, int small, int great) {
        int first = in.one();
        if ((first & 0xf0) == small) return first & 15;
        if (first != great) throw new IllegalStateException("a head of another shape");
        return (int) in.fixed(2);
    }

    private static Long optional(Bytes.In in) {
        if (in.peek() != 0xc0) return number(in);
        in.one();
        return null;
    }

    private static long number(Bytes.In in) {
        int first = in.one();
        if (first < 128) return first;
        if (first < 0xcc || first > 0xcf) throw new IllegalStateException("a head of another shape");
        return in.fixed(1 << first - 0xcc);
    }

    private static String text(Bytes.In in) {
        int first = in.one();
        if ((first & 0xe0) == 0xa0) return in.text(first & 31);
        if (first < 0xd9 || first > 0xda) throw new IllegalStateException("a head of another shape");
        return in.text((int) in.fixed(1 << first - 0xd9));
    }

    // -- writing

    byte[] written(Bytes.Out out, String type, Shape payload) {
        out.clear();
        out.one(VERSION);
        out.one(0x90 | FIELDS);
        number(out, epoch);
        number(out, position);
        number(out, revision);
        text(out, stateHash);
        text(out, facility);
        writeState(out, type, payload);
        writeClocks(out);
        size(out, 0x90, 0xdc, ring.length / SEEN_BYTES);
        out.all(ring);
        text(out, eventId);
        text(out, contentHash);
        number(out, recordedAt);
        number(out, receivedAt);
        out.one(0xc0);
        out.one(0x90);
        out.one(0xc0);
        return out.made();
    }

    private void writeState(Bytes.Out out, String type, Shape payload) {
        size(out, 0x80, 0xde, 1 + count(state));
        text(out, "type");
        text(out, type);
        fields(out, payload, state);
    }

    private static int count(Object[] values) {
        int count = 0;
        for (Object each : values) count += each == null ? 0 : 1;
        return count;
    }

    private static void fields(Bytes.Out out, Shape shape, Object[] values) {
        for (int i = 0; i < values.length; i++) {
            if (values[i] == null) continue;
            text(out, shape.fields[i].name());
            value(out, shape.fields[i].shape(), values[i]);
        }
    }

    private static void value(Bytes.Out out, Shape shape, Object value) {
        if (value == Shape.CLEARED) {
            out.one(0xc0);
            return;
        }
        switch (shape.kind) {
            case STRING, ENUM -> text(out, (String) value);
            case LONG -> number(out, (Long) value);
            case BOOLEAN -> out.one((Boolean) value ? 0xc3 : 0xc2);
            case RECORD -> {
                size(out, 0x80, 0xde, count((Object[]) value));
                fields(out, shape, (Object[]) value);
            }
            default -> throw new IllegalStateException("the twin keeps no " + shape.name);
        }
    }

    private void writeClocks(Bytes.Out out) {
        size(out, 0x80, 0xde, clocks.size());
        for (Map.Entry<String, Clock> each : clocks.entrySet()) {
            Clock clock = each.getValue();
            text(out, each.getKey());
            out.one(0x96);
            text(out, clock.source);
            text(out, clock.feed);
            number(out, clock.rank);
            number(out, clock.recorded);
            if (clock.sequence == null) out.one(0xc0);
            else number(out, clock.sequence);
            number(out, clock.floor);
        }
    }

    private static void size(Bytes.Out out, int small, int great, int size) {
        if (size < 16) {
            out.one(small | size);
        } else {
            out.one(great);
            out.fixed(size, 2);
        }
    }

    private static void number(Bytes.Out out, long value) {
        if (value < 0) throw new IllegalStateException("a head holds no negative number");
        if (value < 128) {
            out.one((int) value);
            return;
        }
        int power = value < 1L << 8 ? 0 : value < 1L << 16 ? 1 : value < 1L << 32 ? 2 : 3;
        out.one(0xcc + power);
        out.fixed(value, 1 << power);
    }

    private static void text(Bytes.Out out, String value) {
        byte[] bytes = value.getBytes(StandardCharsets.UTF_8);
        if (bytes.length < 32) {
            out.one(0xa0 | bytes.length);
        } else if (bytes.length < 256) {
            out.one(0xd9);
            out.one(bytes.length);
        } else {
            out.one(0xda);
            out.fixed(bytes.length, 2);
        }
        out.all(bytes);
    }
}
