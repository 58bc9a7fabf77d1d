import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;

/** The policy: who may state a field, and which lane a change takes (pipeline/domain/judging/policy.py and lanes.py). */
final class Rules {
    private static final String DEFAULT_LANE = "routine";
    private static final String NOBODY = "";

    final String version;
    final long futureSkewMs;
    private final List<Map.Entry<Pattern, String>> systems = new ArrayList<>();
    private final Map<String, String> roles = new HashMap<>();
    private final Map<String, Map<String, Map<String, Integer>>> ranks = new HashMap<>();
    private final List<Lane> lanes = new ArrayList<>();
    private final Map<String, Map<String, Set<String>>> units = new HashMap<>();
    private final Map<Kind, List<Lane>> candidates = new HashMap<>();

    /** A kind of change: the rules that can hold for it are worked out once. */
    private record Kind(String type, String eventType, List<String> changed) {}

    private record Condition(String field, String part, Set<String> values) {}

    private record Lane(
        String lane, String entity, Set<String> eventTypes, Set<String> changed, Set<String> onlyChanged, Set<String> units,
        List<Condition> becomes, List<Condition> leaves, Boolean ready, boolean promisedOrBoarding, String later
    ) {}

    /** A change from `before` (null for a first state) to `after`; `where` is the place that the event names. */
    record Change(
        String type, Shape payload, String eventType, String facility, Object[] before, Object[] after, List<String> changed,
        Object where
    ) {
        Object of(Object[] state, String field) {
            return state == null ? null : state[payload.index(field)];
        }
    }

    Rules(JsonNode policy) {
        if (!policy.get("ignore").isEmpty() || !policy.get("live").isEmpty()) {
            throw new IllegalStateException("the twin knows no rules for what is ignored");
        }
        version = policy.get("version").asText();
        futureSkewMs = 1000 * policy.get("future_skew_s").asLong();
        for (JsonNode each : policy.get("systems")) {
            systems.add(Map.entry(pattern(each.get("system").asText()), each.get("role").asText()));
        }
        policy.get("fields").properties().forEach(type -> {
            Map<String, Map<String, Integer>> fields = ranks.computeIfAbsent(type.getKey(), key -> new HashMap<>());
            type.getValue().properties().forEach(field -> fields.put(field.getKey(), order(field.getValue().get("roles"))));
        });
        policy.get("lanes").forEach(rule -> lanes.add(lane(rule)));
        policy.get("units").properties().forEach(site -> {
            Map<String, Set<String>> kinds = units.computeIfAbsent(site.getKey(), key -> new HashMap<>());
            site.getValue().properties().forEach(kind -> kinds.put(kind.getKey(), texts(kind.getValue())));
        });
    }

    private static Pattern pattern(String shell) {
        if (shell.indexOf('[') >= 0) throw new IllegalStateException("the twin knows no ranges in names of systems");
        StringBuilder made = new StringBuilder();
        for (String part : shell.split("(?<=[*?])|(?=[*?])")) {
            made.append(part.equals("*") ? ".*" : part.equals("?") ? "." : Pattern.quote(part));
        }
        return Pattern.compile(made.toString(), Pattern.DOTALL);
    }

    private static Map<String, Integer> order(JsonNode roles) {
        Map<String, Integer> made = new HashMap<>();
        for (JsonNode role : roles) made.put(role.asText(), made.size());
        return made;
    }

    private static Set<String> texts(JsonNode values) {
        Set<String> made = new HashSet<>();
        values.forEach(value -> made.add(value.asText()));
        return made;
    }

    private static List<Condition> conditions(JsonNode values) {
        List<Condition> made = new ArrayList<>();
        values.properties().forEach(each -> {
            String[] path = each.getKey().split("\\.", 2);
            made.add(new Condition(path[0], path.length > 1 ? path[1] : null, texts(each.getValue())));
        });
        return made;
    }

    private static String text(JsonNode value) {
        return value.isNull() ? null : value.asText();
    }

    private static Lane lane(JsonNode rule) {
        return new Lane(
            rule.get("lane").asText().intern(), text(rule.get("entity")), texts(rule.get("event_types")), texts(rule.get("changed")),
            texts(rule.get("only_changed")), texts(rule.get("units")), conditions(rule.get("becomes")),
            conditions(rule.get("leaves")), rule.get("ready").isNull() ? null : rule.get("ready").asBoolean(),
            rule.get("promised_or_boarding").asBoolean(), text(rule.get("later"))
        );
    }

    // -- who may say what

    /** Role in which a system speaks; null for one that nobody named. */
    String role(String system) {
        String known = roles.get(system);
        if (known == null) {
            known = NOBODY;
            for (Map.Entry<Pattern, String> each : systems) {
                if (each.getKey().matcher(system).matches()) {
                    known = each.getValue();
                    break;
                }
            }
            roles.put(system, known);
        }
        return known.equals(NOBODY) ? null : known;
    }

    /** 0 for the role whose word counts most; null for one that may not state the field. */
    Integer rank(String type, String field, String role) {
        Map<String, Integer> order = ranks.get(type).get(field);
        return order == null ? null : order.get(role);
    }

    // -- what goes first

    String lane(Change change) {
        for (Lane rule : candidates.computeIfAbsent(new Kind(change.type, change.eventType, change.changed), this::possible)) {
            if (holds(rule, change)) return rule.lane;
        }
        return DEFAULT_LANE;
    }

    private List<Lane> possible(Kind kind) {
        return lanes.stream().filter(rule -> mayHold(rule, kind)).toList();
    }

    private static boolean mayHold(Lane rule, Kind kind) {
        List<String> changed = kind.changed;
        return (rule.entity == null || rule.entity.equals(kind.type))
            && (rule.eventTypes.isEmpty() || rule.eventTypes.contains(kind.eventType))
            && (rule.changed.isEmpty() || changed.stream().anyMatch(rule.changed::contains))
            && (rule.onlyChanged.isEmpty() || (!changed.isEmpty() && rule.onlyChanged.containsAll(changed)))
            && rule.becomes.stream().allMatch(each -> changed.contains(each.field))
            && rule.leaves.stream().allMatch(each -> changed.contains(each.field))
            && (rule.later == null || changed.contains(rule.later));
    }

    private boolean holds(Lane rule, Change change) {
        return match(rule.becomes, change.payload, change.after)
            && (rule.leaves.isEmpty() || (change.before != null && match(rule.leaves, change.payload, change.before)))
            && (rule.units.isEmpty() || touches(rule.units, change))
            && (rule.ready == null || rule.ready == becomesReady(change))
            && (!rule.promisedOrBoarding || promisedOrBoarding(change))
            && (rule.later == null || movedLater(rule.later, change));
    }

    private static boolean match(List<Condition> wanted, Shape payload, Object[] state) {
        for (Condition each : wanted) {
            if (!payload.has(each.field)) return false;
            int index = payload.index(each.field);
            Object value = state[index];
            if (each.part != null && value instanceof Object[] parts) {
                value = parts[payload.fields[index].shape().index(each.part)];
            }
            if (value == null || value == Shape.CLEARED || !each.values.contains(value.toString())) return false;
        }
        return true;
    }

    private boolean touches(Set<String> kinds, Change change) {
        boolean bed = change.type.equals("bed");
        String place = bed ? "place" : "location";
        Object after = change.of(change.after, place);
        return touches(kinds, change, change.of(change.before, place))
            || touches(kinds, change, after)
            || (!bed && change.changed.contains("prior_location") && touches(kinds, change, change.of(change.after, "prior_location")))
            || (bed && !(after instanceof Object[]) && touches(kinds, change, change.where));
    }

    private boolean touches(Set<String> kinds, Change change, Object place) {
        if (!(place instanceof Object[] parts)) return false;
        Shape shape = change.payload.fields[change.payload.index(change.type.equals("bed") ? "place" : "location")].shape();
        String unit = (String) parts[shape.index("point_of_care")];
        return unit != null && (isOf(kinds, "*", unit) || isOf(kinds, change.facility, unit));
    }

    private boolean isOf(Set<String> kinds, String site, String unit) {
        for (Map.Entry<String, Set<String>> each : units.getOrDefault(site, Map.of()).entrySet()) {
            if (kinds.contains(each.getKey()) && each.getValue().contains(unit)) return true;
        }
        return false;
    }

    private static boolean becomesReady(Change change) {
        if (!change.type.equals("bed")) return false;
        return isReady(change, change.after) && !(change.before != null && isReady(change, change.before));
    }

    /** Whether a bed is known to be ready: in service, vacant, clean and staffed (pipeline/domain/bed.py). */
    private static boolean isReady(Change change, Object[] bed) {
        Object service = status(change.of(bed, "service"));
        return !"BLOCKED".equals(service)
            && !"CLOSED".equals(service)
            && !Boolean.FALSE.equals(change.of(bed, "staffed"))
            && "VACANT".equals(status(change.of(bed, "occupancy")))
            && "CLEAN".equals(change.of(bed, "environment"));
    }

    /** Status of an occupancy, an allocation or a service: their first field. */
    private static Object status(Object composite) {
        return composite instanceof Object[] parts ? parts[0] : null;
    }

    private boolean promisedOrBoarding(Change change) {
        if (!change.type.equals("bed")) return false;
        Object promise = status(change.of(change.after, "allocation"));
        return (promise != null && !promise.equals("NONE")) || touches(Set.of("boarding"), change);
    }

    private static boolean movedLater(String field, Change change) {
        if (change.before == null || !change.payload.has(field)) return false;
        return change.of(change.before, field) instanceof Long old
            && change.of(change.after, field) instanceof Long now
            && now > old;
    }

}
