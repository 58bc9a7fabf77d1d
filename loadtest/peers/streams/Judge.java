import com.fasterxml.jackson.databind.JsonNode;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/**
 * The gate's verdict on one landing record: pipeline/domain/judging/gate.py for what the bench's load holds, events about beds and
 * encounters that nothing is wrong with. Of anything else (an order, a merge, a broken record) it says so and stops: a twin
 * that passes over something would be the faster for it.
 */
final class Judge {
    static final int OFFSET_BITS = 44;
    private static final int HEADER_BYTES = 5;
    private static final String ACCEPTED = "accepted";
    private static final String DECISION = "decision";

    /** A landing topic: what it holds, the epoch of its offsets, and its name on the map. */
    record Landing(String type, long epoch, String name) {}

    /** Where a record lies, and when it landed. */
    record At(String topic, int partition, long offset, long timestamp) {}

    /** What is to be done: the head to store (null: it stays) and a record for the history, the lane too, or for the decisions.
     * `lane` is null where it was not accepted. */
    record Verdict(byte[] head, byte[] output, String lane) {}

    private final Map<String, Landing> landing = new HashMap<>();
    private final Map<Integer, Event> events = new HashMap<>();
    private final Map<String, Event> types = new HashMap<>();
    private final Shape accepted;
    private final Shape decision;
    private final int acceptedId;
    private final int decisionId;
    private final Rules rules;
    private final StateHash hash = new StateHash();
    private final Bytes.Out out = new Bytes.Out();

    /** Schema of an event with the places of its fields. */
    private static final class Event {
        final String type;
        final Shape shape;
        final Shape payload;
        final int branch;
        final int eventId, tenant, facility, source, feed, entityType, namespace, entityId, eventType, sequence, basis;
        final int occurred, recorded, received, location, trace, stated, content, replaces;

        Event(String type, Shape shape, Shape accepted) {
            this.type = type;
            this.shape = shape;
            stated = shape.index("payload");
            payload = shape.fields[stated].shape();
            branch = accepted.fields[accepted.index("state")].shape().index(payload.name);
            eventId = shape.index("event_id");
            tenant = shape.index("tenant");
            facility = shape.index("facility");
            source = shape.index("source_system");
            feed = shape.index("feed");
            entityType = shape.index("entity_type");
            namespace = shape.index("namespace");
            entityId = shape.index("entity_id");
            eventType = shape.index("event_type");
            sequence = shape.index("sequence");
            basis = shape.index("sequence_basis");
            occurred = shape.index("occurred_at");
            recorded = shape.index("recorded_at");
            received = shape.index("received_at");
            location = shape.index("location");
            trace = shape.index("trace_id");
            content = shape.index("content_hash");
            replaces = shape.index("replaces");
        }
    }

    Judge(JsonNode job) {
        rules = new Rules(job.get("policy"));
        job.get("landing").properties().forEach(each -> {
            JsonNode of = each.getValue();
            landing.put(each.getKey(), new Landing(of.get("type").asText(), of.get("epoch").asLong(), of.get("name").asText()));
        });
        accepted = Shape.of(job.get(ACCEPTED + "_schema"));
        decision = Shape.of(job.get(DECISION + "_schema"));
        acceptedId = job.get(ACCEPTED + "_id").asInt();
        decisionId = job.get(DECISION + "_id").asInt();
        for (JsonNode each : job.get("event_schemas")) {
            Event event = new Event(each.get("type").asText(), Shape.of(each.get("schema")), accepted);
            events.put(each.get("id").asInt(), event);
            types.put(event.type, event);
        }
    }

    /** Null where the record was judged before; `known` is the entity's head, or null. */
    Verdict judge(At at, byte[] key, byte[] value, byte[] known) {
        Landing here = landing.get(at.topic);
        Event type = types.get(here.type);
        Head head = known == null ? null : Head.read(known, here.type, type.payload);
        long revision = here.epoch << OFFSET_BITS | at.offset;
        if (head != null && revision <= head.at()) return null;
        Object[] event = read(value, type);
        check(at, key, event, type);
        return new One(at, here, type, event, head, revision).judged();
    }

    private Object[] read(byte[] value, Event expected) {
        Bytes.In in = new Bytes.In(value, 0);
        if (in.one() != 0 || events.get((int) in.fixed(HEADER_BYTES - 1)) != expected) {
            throw new IllegalStateException("the twin judges events of the newest schema only, in the topic of their type");
        }
        Object[] event = (Object[]) expected.shape.read(in);
        if (!in.ended()) throw new IllegalStateException("bytes after a record's end");
        return event;
    }

    private void check(At at, byte[] key, Object[] event, Event type) {
        String tenant = (String) event[type.tenant];
        String namespace = (String) event[type.namespace];
        String id = (String) event[type.entityId];
        boolean named = !tenant.isEmpty()
            && !((String) event[type.facility]).isEmpty()
            && !((String) event[type.source]).isEmpty()
            && !((String) event[type.feed]).isEmpty()
            && !namespace.isEmpty()
            && !id.isEmpty()
            && event[type.entityType].equals(type.type);
        String expected = tenant + "|" + type.type + "|" + namespace + "|" + id;
        boolean addressed = Arrays.equals(expected.getBytes(StandardCharsets.UTF_8), key) && expected.indexOf('\\') < 0;
        boolean identified = isHex((String) event[type.eventId], 32) && isHex((String) event[type.content], 16);
        boolean timely = (Long) event[type.recorded] <= at.timestamp + rules.futureSkewMs;
        boolean merges = event[type.replaces] != null || type.payload.has("merged_into") && states(event, type, "merged_into");
        boolean occupies = type.payload.has("occupancy") && states(event, type, "occupancy");
        if (!named || !addressed || !identified || !timely || merges || occupies) {
            throw new IllegalStateException("a record that the twin does not judge, at " + at.offset);
        }
    }

    private static boolean states(Object[] event, Event type, String field) {
        return ((Object[]) event[type.stated])[type.payload.index(field)] != null;
    }

    private static boolean isHex(String text, int length) {
        if (text.length() != length) return false;
        for (int i = 0; i < length; i++) {
            char each = text.charAt(i);
            if ((each < '0' || each > '9') && (each < 'a' || each > 'f')) return false;
        }
        return true;
    }

    private byte[] encoded(int id, Shape shape, Object[] record) {
        out.clear();
        out.one(0);
        out.fixed(id, HEADER_BYTES - 1);
        shape.write(record, out);
        return out.made();
    }

    private static void set(Shape shape, Object[] record, String field, Object value) {
        record[shape.index(field)] = value;
    }

    /** One record under judgement. */
    private final class One {
        private final At at;
        private final Landing here;
        private final Event type;
        private final Object[] event;
        private final Head head;
        private final long revision;
        private final byte[] seen;
        private final List<Object> dropped = new ArrayList<>(0);
        private Map<String, Head.Clock> clocks;
        private boolean reset;

        One(At at, Landing here, Event type, Object[] event, Head head, long revision) {
            this.at = at;
            this.here = here;
            this.type = type;
            this.event = event;
            this.head = head;
            this.revision = revision;
            seen = Head.seen((String) event[type.eventId], (String) event[type.content]);
        }

        Verdict judged() {
            int repeat = head == null ? -1 : head.find(seen);
            if (repeat < 0) return merged();
            boolean same = head.sameContent(repeat, seen);
            return suppressed(same ? "DUPLICATE" : "CONFLICT", same ? "REPEATED_ID" : "CONTENT_DIFFERS", false);
        }

        private Verdict merged() {
            Object[] stated = (Object[]) event[type.stated];
            String role = rules.role((String) event[type.source]);
            clocks = head == null ? new LinkedHashMap<>() : head.clocks;
            Object[] state = head == null ? new Object[stated.length] : head.state.clone();
            List<String> changed = new ArrayList<>(4);
            boolean survived = false;
            for (int i = 0; i < type.payload.stated(); i++) {
                if (stated[i] == null || !survives(type.payload.fields[i].name(), role)) continue;
                survived = true;
                if (!Objects.deepEquals(state[i], stated[i])) {
                    state[i] = stated[i];
                    changed.add(type.payload.fields[i].name());
                }
            }
            if (!survived) return noneSurvived();
            if (changed.isEmpty() && head != null && head.revision != 0) return suppressed("NO_OP", "SAME_STATE", true);
            return accept(state, changed);
        }

        /** Whether what the event says of a field is newer than what is known; then its clock is set. */
        private boolean survives(String field, String role) {
            Integer rank = role == null ? null : rules.rank(type.type, field, role);
            if (rank == null) return drop(field, role == null ? "UNKNOWN_SOURCE" : "FIELD_NOT_OWNED");
            Head.Clock known = clocks.get(field);
            long recorded = Math.min((Long) event[type.recorded], (Long) event[type.received]);
            Long sequence = "SOURCE".equals(event[type.basis]) ? (Long) event[type.sequence] : null;
            long floor = known == null ? 0 : known.floor();
            Head.Clock clock = new Head.Clock((String) event[type.source], (String) event[type.feed], rank, recorded, sequence, floor);
            String late = known == null ? null : older(clock, known);
            if (known != null && isReset(clock, known)) {
                reset = true;
                clock = new Head.Clock(clock.source(), clock.feed(), rank, recorded, sequence, recorded);
            }
            if (late != null) return drop(field, late);
            clocks.put(field, clock);
            return true;
        }

        private boolean drop(String field, String reason) {
            dropped.add(new Object[] {field, reason});
            return false;
        }

        private Verdict noneSurvived() {
            if (dropped.isEmpty()) return suppressed("NO_OP", "SAME_STATE", true);
            for (Object each : dropped) {
                String reason = (String) ((Object[]) each)[1];
                if (!reason.equals("FIELD_NOT_OWNED") && !reason.equals("UNKNOWN_SOURCE")) return suppressed("STALE", reason, true);
            }
            return suppressed("NOT_OWNER", (String) ((Object[]) dropped.get(0))[1], true);
        }

        /** No new revision: the head moves on, and with `noted` remembers the event. Nothing is kept of an unknown entity. */
        private Verdict suppressed(String kind, String reason, boolean noted) {
            Object[] record = decision.blank();
            set(decision, record, "topic", here.name);
            set(decision, record, "epoch", here.epoch);
            set(decision, record, "partition", (long) at.partition);
            set(decision, record, "offset", at.offset);
            set(decision, record, "kind", kind);
            set(decision, record, "reason", reason);
            set(decision, record, "event_id", event[type.eventId]);
            set(decision, record, "content_hash", event[type.content]);
            set(decision, record, "revision", head == null ? 0L : head.revision);
            set(decision, record, "dropped", dropped);
            set(decision, record, "received_at", event[type.received]);
            set(decision, record, "decided_at", at.timestamp);
            set(decision, record, "policy_version", rules.version);
            byte[] output = encoded(decisionId, decision, record);
            if (head == null) return new Verdict(null, output, null);
            head.epoch = here.epoch;
            head.position = at.offset;
            if (noted) head.ring = Head.rung(head.ring, seen);
            return new Verdict(head.written(out, type.type, type.payload), output, null);
        }

        private Verdict accept(Object[] state, List<String> changed) {
            String facility = (String) event[type.facility];
            Object[] before = head != null && head.revision != 0 ? head.state : null;
            String stateHash = hash.of(type.type, type.payload, state);
            String lane = rules.lane(new Rules.Change(
                type.type, type.payload, (String) event[type.eventType], facility, before, state, changed, event[type.location]
            ));
            Object[] record = accepted.blank();
            for (String same : COPIED) set(accepted, record, same, event[type.shape.index(same)]);
            set(accepted, record, "epoch", here.epoch);
            set(accepted, record, "partition", (long) at.partition);
            set(accepted, record, "offset", at.offset);
            set(accepted, record, "revision", revision);
            set(accepted, record, "previous_revision", head == null ? 0L : head.revision);
            set(accepted, record, "lane", lane);
            set(accepted, record, "changed", changed);
            set(accepted, record, "dropped", dropped);
            set(accepted, record, "state", new Shape.Chosen(type.branch, state));
            set(accepted, record, "state_hash", stateHash);
            set(accepted, record, "accepted_at", at.timestamp);
            set(accepted, record, "policy_version", rules.version);
            set(accepted, record, "sequence_reset", reset);
            byte[] output = encoded(acceptedId, accepted, record);
            return new Verdict(next(state, stateHash, facility).written(out, type.type, type.payload), output, lane);
        }

        private Head next(Object[] state, String stateHash, String facility) {
            Head next = new Head();
            next.epoch = here.epoch;
            next.position = at.offset;
            next.revision = revision;
            next.stateHash = stateHash;
            next.facility = facility;
            next.state = state;
            next.clocks = clocks;
            next.ring = head == null ? seen : Head.rung(head.ring, seen);
            next.eventId = (String) event[type.eventId];
            next.contentHash = (String) event[type.content];
            next.recordedAt = (Long) event[type.recorded];
            next.receivedAt = (Long) event[type.received];
            return next;
        }
    }

    private static final String[] COPIED = {
        "event_id", "tenant", "facility", "entity_type", "namespace", "entity_id", "event_type", "source_system", "feed",
        "content_hash", "occurred_at", "recorded_at", "received_at", "trace_id",
    };

    // -- which of two statements is the newer (pipeline/domain/judging/precedence.py)

    /** Why a statement is older than what is known; null if it is newer. */
    private static String older(Head.Clock now, Head.Clock known) {
        boolean oneCount = sameFeed(now, known) && now.recorded() >= known.floor() && !isReset(now, known);
        if (oneCount && now.sequence() != null && known.sequence() != null) {
            return now.sequence() < known.sequence() ? "OLDER_SEQUENCE" : null;
        }
        if (now.recorded() != known.recorded()) return now.recorded() < known.recorded() ? "OLDER_TIME" : null;
        return now.rank() > known.rank() ? "LOWER_PRECEDENCE" : null;
    }

    private static boolean isReset(Head.Clock now, Head.Clock known) {
        return sameFeed(now, known)
            && now.sequence() != null
            && known.sequence() != null
            && now.sequence() < known.sequence()
            && now.recorded() > known.recorded();
    }

    private static boolean sameFeed(Head.Clock now, Head.Clock known) {
        return now.source().equals(known.source()) && now.feed().equals(known.feed());
    }
}
