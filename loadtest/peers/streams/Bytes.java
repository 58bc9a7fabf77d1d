import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** A place in bytes to read at, and a buffer to write to. */
final class Bytes {
    private Bytes() {}

    static final class In {
        private final byte[] data;
        private int at;

        In(byte[] data, int at) {
            this.data = data;
            this.at = at;
        }

        boolean ended() {
            return at == data.length;
        }

        int peek() {
            return data[at] & 0xff;
        }

        int one() {
            return data[at++] & 0xff;
        }

        /** Avro's zig-zag number of variable length. */
        long number() {
            long rest = 0;
            for (int shift = 0; shift < 70; shift += 7) {
                int next = data[at++];
                rest |= (next & 127L) << shift;
                if (next >= 0) return (rest >>> 1) ^ -(rest & 1);
            }
            throw new IllegalStateException("a number of more than ten bytes");
        }

        /** A number of so many bytes, the highest first. */
        long fixed(int bytes) {
            long made = 0;
            for (int i = 0; i < bytes; i++) made = made << 8 | one();
            return made;
        }

        String text(int length) {
            String made = new String(data, at, length, StandardCharsets.UTF_8);
            at += length;
            return made;
        }

        byte[] some(int length) {
            byte[] made = Arrays.copyOfRange(data, at, at + length);
            at += length;
            return made;
        }
    }

    static final class Out {
        private byte[] data = new byte[4096];
        private int at;

        void clear() {
            at = 0;
        }

        byte[] made() {
            return Arrays.copyOf(data, at);
        }

        int length() {
            return at;
        }

        byte[] buffer() {
            return data;
        }

        void one(int value) {
            room(1);
            data[at++] = (byte) value;
        }

        void number(long value) {
            room(10);
            long rest = (value << 1) ^ (value >> 63);
            while ((rest & ~127L) != 0) {
                data[at++] = (byte) (rest & 127 | 128);
                rest >>>= 7;
            }
            data[at++] = (byte) rest;
        }

        void fixed(long value, int bytes) {
            room(bytes);
            for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) data[at++] = (byte) (value >>> shift);
        }

        void all(byte[] some) {
            room(some.length);
            System.arraycopy(some, 0, data, at, some.length);
            at += some.length;
        }

        private void room(int more) {
            if (at + more > data.length) data = Arrays.copyOf(data, 2 * (at + more));
        }
    }
}
