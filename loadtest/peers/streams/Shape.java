import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * An Avro schema, resolved, with the reader and the writer of its binary encoding (Avro 1.12, "Binary Encoding").
 *
 * <p>Values: String (also of an enum, its symbol), Long, Boolean, Object[] of a record's fields, List of an array, Chosen of a
 * union of records. Null is a field that is not spoken of, CLEARED one that its source has cleared: the names of those go in
 * the record's field `cleared`, whose own value is always null.
 */
final class Shape {
    static final Object CLEARED = new Object();
    static final String CLEARED_NAMES = "cleared";

    enum Kind { STRING, LONG, BOOLEAN, ENUM, RECORD, ARRAY, UNION }

    /** A record of a union with the index of its branch. */
    record Chosen(int branch, Object[] value) {}

    /** A field; `otherwise` is what it has where nothing is said of it. */
    record Field(String name, Shape shape, boolean nullable, Object otherwise) {}

    final Kind kind;
    final String name;
    String[] symbols = {};
    Field[] fields = {};
    Shape[] branches = {};
    Shape items;
    private final Map<String, Integer> indices = new HashMap<>();
    private int cleared = -1;

    private Shape(Kind kind, String name) {
        this.kind = kind;
        this.name = name;
    }

    static Shape of(JsonNode schema) {
        return of(schema, new HashMap<>());
    }

    /** Index of a record's field, of an enum's symbol or of a union's record; an error where there is none. */
    int index(String wanted) {
        Integer found = indices.get(wanted);
        if (found == null) throw new IllegalStateException("the schema " + name + " has no " + wanted);
        return found;
    }

    boolean has(String wanted) {
        return indices.containsKey(wanted);
    }

    /** Fields that are stated, of a payload: all but the last, which names the cleared ones. */
    int stated() {
        return cleared < 0 ? fields.length : cleared;
    }

    /** A record of which nothing is said yet. */
    Object[] blank() {
        Object[] made = new Object[fields.length];
        for (int i = 0; i < made.length; i++) made[i] = fields[i].otherwise;
        return made;
    }

    // -- from the schema

    private static Shape of(JsonNode schema, Map<String, Shape> named) {
        if (schema.isTextual()) return primitive(schema.asText(), named);
        if (schema.isArray()) return union(schema, named);
        String type = schema.get("type").asText();
        return switch (type) {
            case "record" -> record(schema, named);
            case "enum" -> symbols(schema, named);
            case "array" -> {
                Shape made = new Shape(Kind.ARRAY, type);
                made.items = of(schema.get("items"), named);
                yield made;
            }
            default -> primitive(type, named);
        };
    }

    private static Shape primitive(String type, Map<String, Shape> named) {
        return switch (type) {
            case "string" -> new Shape(Kind.STRING, type);
            case "long" -> new Shape(Kind.LONG, type);
            case "boolean" -> new Shape(Kind.BOOLEAN, type);
            case "double" -> new Shape(Kind.UNION, type); // a union of nothing: it can be named, not read or written
            default -> {
                Shape known = named.get(type.substring(type.lastIndexOf('.') + 1));
                if (known == null) throw new IllegalStateException("a schema names the unknown type " + type);
                yield known;
            }
        };
    }

    private static Shape union(JsonNode schema, Map<String, Shape> named) {
        Shape made = new Shape(Kind.UNION, "union");
        made.branches = new Shape[schema.size()];
        for (int i = 0; i < schema.size(); i++) {
            made.branches[i] = of(schema.get(i), named);
            made.indices.put(made.branches[i].name, i);
        }
        return made;
    }

    private static Shape symbols(JsonNode schema, Map<String, Shape> named) {
        Shape made = new Shape(Kind.ENUM, schema.get("name").asText());
        named.put(made.name, made);
        made.symbols = new String[schema.get("symbols").size()];
        for (int i = 0; i < made.symbols.length; i++) {
            made.symbols[i] = schema.get("symbols").get(i).asText().intern();
            made.indices.put(made.symbols[i], i);
        }
        return made;
    }

    private static Shape record(JsonNode schema, Map<String, Shape> named) {
        Shape made = new Shape(Kind.RECORD, schema.get("name").asText());
        named.put(made.name, made);
        made.fields = new Field[schema.get("fields").size()];
        for (int i = 0; i < made.fields.length; i++) {
            JsonNode field = schema.get("fields").get(i);
            JsonNode type = field.get("type");
            boolean nullable = type.isArray() && type.size() == 2 && type.get(0).asText().equals("null");
            Shape shape = of(nullable ? type.get(1) : type, named);
            String name = field.get("name").asText();
            made.fields[i] = new Field(name, shape, nullable, otherwise(field.get("default")));
            made.indices.put(name, i);
            if (name.equals(CLEARED_NAMES)) made.cleared = i;
        }
        return made;
    }

    private static Object otherwise(JsonNode value) {
        if (value == null || value.isNull()) return null;
        if (value.isArray()) return List.of();
        if (value.isBoolean()) return value.asBoolean();
        return value.isTextual() ? value.asText().intern() : (Object) value.asLong();
    }

    // -- bytes

    Object read(Bytes.In in) {
        switch (kind) {
            case STRING:
                return in.text((int) in.number());
            case LONG:
                return in.number();
            case BOOLEAN:
                return in.one() != 0;
            case ENUM:
                return symbols[(int) in.number()];
            case RECORD:
                return readRecord(in);
            case ARRAY:
                return readArray(in);
            default:
                throw new IllegalStateException("the twin reads no " + name);
        }
    }

    private Object[] readRecord(Bytes.In in) {
        Object[] made = new Object[fields.length];
        for (int i = 0; i < made.length; i++) {
            Field field = fields[i];
            if (!field.nullable || in.one() != 0) made[i] = field.shape.read(in);
        }
        if (cleared >= 0) {
            for (Object each : (List<?>) made[cleared]) made[index((String) each)] = CLEARED;
            made[cleared] = null;
        }
        return made;
    }

    private List<Object> readArray(Bytes.In in) {
        List<Object> made = List.of();
        for (long count = in.number(); count != 0; count = in.number()) {
            if (count < 0) {
                count = -count;
                in.number(); // the block's length
            }
            if (made.isEmpty()) made = new ArrayList<>();
            for (long i = 0; i < count; i++) made.add(items.read(in));
        }
        return made;
    }

    void write(Object value, Bytes.Out out) {
        switch (kind) {
            case STRING:
                byte[] text = ((String) value).getBytes(StandardCharsets.UTF_8);
                out.number(text.length);
                out.all(text);
                break;
            case LONG:
                out.number((Long) value);
                break;
            case BOOLEAN:
                out.one((Boolean) value ? 1 : 0);
                break;
            case ENUM:
                out.number(index((String) value));
                break;
            case RECORD:
                writeRecord((Object[]) value, out);
                break;
            case ARRAY:
                List<?> each = (List<?>) value;
                if (!each.isEmpty()) out.number(each.size());
                for (Object item : each) items.write(item, out);
                out.one(0);
                break;
            case UNION:
                Chosen chosen = (Chosen) value;
                out.number(chosen.branch);
                branches[chosen.branch].writeRecord(chosen.value, out);
                break;
        }
    }

    private void writeRecord(Object[] value, Bytes.Out out) {
        List<Object> names = List.of();
        for (int i = 0; i < fields.length; i++) {
            Field field = fields[i];
            Object each = value[i];
            if (i == cleared) {
                field.shape.write(names, out);
            } else if (!field.nullable) {
                field.shape.write(each, out);
            } else if (each == null || each == CLEARED) {
                out.one(0);
                if (each == CLEARED) {
                    if (names.isEmpty()) names = new ArrayList<>();
                    names.add(field.name);
                }
            } else {
                out.one(2);
                field.shape.write(each, out);
            }
        }
    }
}
