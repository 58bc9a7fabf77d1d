"""`hl7 explain`: every field that a message states has a place where it was read."""

import json
from pathlib import Path

from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.formats.hl7v2.mapping import messages_of
from pipeline.formats.hl7v2.origins import explain
from pipeline.formats.hl7v2.triggers import RULES
from pipeline.formats.hl7v2.verdict import Rejected
from tests.support.hl7_samples import DEFAULT, PROFILES, a20, adt

RUN = CliRunner()


def test_every_field_of_every_trigger_has_an_origin() -> None:
    full = {6: "MED^2^B^MAIN", 10: "CAR", 11: "X^1^C", 36: "01", 42: "MED^3^C", 44: "20260101", 45: "20260102", 54: "E7"}
    for rule in RULES:
        found = explain(adt(rule.trigger, pv1=full, more=("PV2|||||||||20260103",)), DEFAULT)
        if rule.trigger != "A17":
            assert found.events, rule.trigger
            assert found.rule == rule.meaning
            assert all(told.origin for _, fields in found.events for told in fields)


def test_every_real_message_is_explained_or_its_rejection_is(shared_data: Path) -> None:
    for path in sorted((shared_data / "hl7v2").glob("*.hl7")):
        parts = messages_of(path.read_bytes())
        for part in [] if isinstance(parts, Rejected) else parts:
            found = explain(part, DEFAULT)
            assert found.events or found.rule, path.name
            for event, fields in found.events:
                assert {told.field for told in fields} <= {*event.payload.__struct_fields__, "replaces"}, path.name


def test_the_command_shows_where_each_field_is_from_and_hides_values_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.hl7").write_bytes(adt("A02", pid={5: "[bold]DOE^JANE"}))
    (tmp_path / "b.hl7").write_bytes(a20("H"))
    shown = RUN.invoke(app, ["hl7", "explain", str(tmp_path / "a.hl7"), str(tmp_path / "b.hl7")])
    assert shown.exit_code == 0, shown.output
    assert "PV1-3" in shown.output
    assert "[bold]DOE" in shown.output
    assert "NPU-2" in shown.output
    hidden = RUN.invoke(app, ["hl7", "explain", str(tmp_path / "a.hl7"), "--no-values", "--json"])
    (told,) = (json.loads(line) for line in hidden.output.splitlines())
    assert {field["field"]: field["from"] for field in told["events"][1]["fields"]}["location"] == "PV1-3"
    assert "DOE" not in hidden.output
    assert "4711" not in hidden.output


def test_times_are_shown_as_times_and_what_orders_the_message_too() -> None:
    found = explain(adt("A01", evn={6: "20260105093000"}, pv1={4: "E", 44: "20260105090000"}), DEFAULT)
    shown = {told.field: (told.value, told.origin) for told in (*found.common, *found.events[1][1])}
    assert shown["recorded_at"] == ("2026-01-05T10:10:00.000Z", "EVN-2, else MSH-7")
    assert shown["occurred_at"][0] == "2026-01-05T09:30:00.000Z"
    assert shown["admitted_at"] == ("2026-01-05T09:00:00.000Z", "PV1-44")
    assert shown["priority"] == ("E", "PV1-4")


def test_a_rejection_says_what_to_do_and_the_command_fails(tmp_path: Path) -> None:
    (tmp_path / "a.hl7").write_bytes(adt("A99"))
    (tmp_path / "b.hl7").write_bytes(b"BHS|^~\\&\r" + adt("A01") + b"BTS|2\r")
    shown = RUN.invoke(app, ["hl7", "explain", str(tmp_path / "a.hl7"), str(tmp_path / "b.hl7")])
    assert shown.exit_code == 1
    assert "UNSUPPORTED_EVENT at MSH-9.2" in shown.output
    assert "BTS-1" in shown.output


def test_a_profile_of_ones_own_is_a_file_and_what_is_wrong_with_it_is_told_at_its_line(tmp_path: Path) -> None:
    message, own = tmp_path / "a.hl7", tmp_path / "north.yaml"
    message.write_bytes(adt("A01", pv1={2: "STAT"}))
    text = (PROFILES / "default.yaml").read_text()
    own.write_text(text.replace("  INPATIENT: I", "  STAT: I"))
    found = RUN.invoke(app, ["hl7", "explain", str(message), "--profile", str(own)])
    assert found.exit_code == 0, found.output
    for wrong, says in (
        (f"{text}zone: UTC\n", f"line {text.count(chr(10)) + 1}: there is no setting `zone`"),
        (None, "No such file"),
    ):
        if wrong is None:
            own.unlink()
        else:
            own.write_text(wrong)
        refused = RUN.invoke(app, ["hl7", "explain", str(message), "--profile", str(own)])
        assert refused.exit_code == 2
        assert says in " ".join(refused.output.split())
    unknown = RUN.invoke(app, ["hl7", "explain", str(message), "--profile", "no-such"])
    assert (unknown.exit_code, "./no-such.yaml" in unknown.output) == (2, True)
