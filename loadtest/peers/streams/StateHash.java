import java.nio.charset.StandardCharsets;
import java.util.HexFormat;

/** The state's hash: BLAKE2b (RFC 7693) of 8 bytes over its JSON, as pipeline/domain/head.py makes it. */
final class StateHash {
    private static final long[] START = {
        0x6a09e667f3bcc908L, 0xbb67ae8584caa73bL, 0x3c6ef372fe94f82bL, 0xa54ff53a5f1d36f1L,
        0x510e527fade682d1L, 0x9b05688c2b3e6c1fL, 0x1f83d9abfb41bd6bL, 0x5be0cd19137e2179L,
    };
    private static final byte[][] ORDER = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    };
    private static final int ROUNDS = 12;
    private static final int BLOCK = 128;
    private static final int DIGEST_BYTES = 8;

    private final Bytes.Out json = new Bytes.Out();
    private final long[] words = new long[16];
    private final long[] work = new long[16];

    /** 16 hexadecimal digits over a state. */
    String of(String type, Shape payload, Object[] state) {
        json.clear();
        json.one('{');
        quoted("type");
        json.one(':');
        quoted(type);
        fields(payload, state, true);
        return HexFormat.of().toHexDigits(Long.reverseBytes(digest(json.buffer(), json.length())));
    }

    private void fields(Shape shape, Object[] values, boolean following) {
        for (int i = 0; i < values.length; i++) {
            if (values[i] == null) continue;
            if (following) json.one(',');
            following = true;
            quoted(shape.fields[i].name());
            json.one(':');
            value(shape.fields[i].shape(), values[i]);
        }
        json.one('}');
    }

    private void value(Shape shape, Object value) {
        if (value == Shape.CLEARED) {
            plain("null");
            return;
        }
        switch (shape.kind) {
            case STRING, ENUM -> quoted((String) value);
            case LONG, BOOLEAN -> plain(value.toString());
            case RECORD -> {
                json.one('{');
                fields(shape, (Object[]) value, false);
            }
            default -> throw new IllegalStateException("the twin hashes no " + shape.name);
        }
    }

    private void plain(String text) {
        json.all(text.getBytes(StandardCharsets.ISO_8859_1));
    }

    private void quoted(String text) {
        json.one('"');
        for (byte each : text.getBytes(StandardCharsets.UTF_8)) {
            if (each >= 0 && each < 32) throw new IllegalStateException("the twin hashes no control characters");
            if (each == '"' || each == '\\') json.one('\\');
            json.one(each);
        }
        json.one('"');
    }

    private long digest(byte[] data, int length) {
        long[] chain = START.clone();
        chain[0] ^= 0x01010000 ^ DIGEST_BYTES;
        int at = 0;
        for (; length - at > BLOCK; at += BLOCK) mix(chain, data, at, BLOCK, at + BLOCK, false);
        mix(chain, data, at, length - at, length, true);
        return chain[0];
    }

    private void mix(long[] chain, byte[] data, int from, int count, long done, boolean last) {
        for (int i = 0; i < 16; i++) {
            long word = 0;
            for (int j = 7; j >= 0; j--) {
                int at = 8 * i + j;
                word = word << 8 | (at < count ? data[from + at] & 0xffL : 0);
            }
            words[i] = word;
        }
        System.arraycopy(chain, 0, work, 0, 8);
        System.arraycopy(START, 0, work, 8, 8);
        work[12] ^= done;
        if (last) work[14] = ~work[14];
        for (int round = 0; round < ROUNDS; round++) {
            byte[] order = ORDER[round % ORDER.length];
            for (int i = 0; i < 4; i++) quarter(i, 4 + i, 8 + i, 12 + i, words[order[2 * i]], words[order[2 * i + 1]]);
            for (int i = 0; i < 4; i++) {
                long x = words[order[8 + 2 * i]];
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, x, words[order[9 + 2 * i]]);
            }
        }
        for (int i = 0; i < 8; i++) chain[i] ^= work[i] ^ work[i + 8];
    }

    private void quarter(int a, int b, int c, int d, long x, long y) {
        work[a] += work[b] + x;
        work[d] = Long.rotateRight(work[d] ^ work[a], 32);
        work[c] += work[d];
        work[b] = Long.rotateRight(work[b] ^ work[c], 24);
        work[a] += work[b] + y;
        work[d] = Long.rotateRight(work[d] ^ work[a], 16);
        work[c] += work[d];
        work[b] = Long.rotateRight(work[b] ^ work[c], 63);
    }
}
