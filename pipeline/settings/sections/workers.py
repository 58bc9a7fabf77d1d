"""Settings of gate and writers, and of what every worker has."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from pipeline.settings.sections.base import Count, File, LaneSeconds, Name, Port, Seconds, Section
from pipeline.settings.sections.servers import ServerSettings


class GateSettings(Section):
    """The gate."""

    data_dir: Annotated[File, Field(description="folder for its table; one for each instance", validate_default=True)] = Path(
        ".surgeline/gate"
    )
    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    max_record_bytes: Annotated[int, Field(description="greatest landing record that is judged", ge=1_000, le=1_000_000)] = (
        900_000
    )
    within_s: Annotated[float, Field(description="time to gather a cycle", gt=0, le=1)] = 0.002
    fetch_max_records: Annotated[Count, Field(description="most records of one partition in one poll")] = 500
    buffer_max_messages: Annotated[Count, Field(description="most messages that wait for a cycle")] = 64
    one_by_one: Annotated[
        bool, Field(description="judge one record at a time, as Faust's guide has it: the same output, slowly, to find faults")
    ] = False


class WriterSettings(ServerSettings):
    """One destination and its writer."""

    profile: Annotated[str, Field(description="profile of the destination, a name under profiles/ehr")]
    role: Annotated[
        Literal["owner", "replica"], Field(description="owner (of fields that are never written) or replica (is fed all)")
    ]
    data_dir: Annotated[File, Field(description="folder for its table; one for each instance")]
    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    concurrency: Annotated[int, Field(description="most requests at once; a bundle is one", ge=1, le=1_000)] = 16
    rate_per_s: Annotated[
        float, Field(description="most reads and writes in a second; each entry of a bundle is one", gt=0, le=100_000)
    ] = 200.0
    attempt_timeout_s: Annotated[Seconds, Field(description="time for one attempt, reads included")] = 10.0
    deadlines_s: Annotated[LaneSeconds, Field(description="time until a change counts as stuck, per lane")] = LaneSeconds()
    max_attempts: Annotated[Count, Field(description="attempts after which a change is parked", le=1_000)] = 10
    merge_hold_s: Annotated[
        Seconds, Field(description="a survivor of a merge that waits longer for what was merged into it shows as stuck")
    ] = 60.0
    region: Annotated[Name | None, Field(description="region that it is in; needed once there are rules of tenants")] = None
    purpose: Annotated[Name | None, Field(description="what it gets data for; needed once there are rules of tenants")] = None
    tenants: Annotated[tuple[Name, ...], Field(description="tenants whose data it gets; all that have rules if left out")] = ()
    modes_file: Annotated[
        File | None, Field(description="policy of its modes, what each freezes (modes.md); the shipped one if left out")
    ] = None


class Hl7OutSettings(Section):
    """One receiver of HL7 v2 over MLLP and its writer."""

    host: Annotated[str, Field(description="where it listens: a name or an address", min_length=1, max_length=255)]
    port: Annotated[int, Field(description="port that it listens at", ge=1, le=65535)]
    profile: Annotated[str, Field(description="profile of the receiver, a name under profiles/hl7-out")]
    role: Annotated[
        Literal["owner", "replica"], Field(description="owner (is told of beds only) or replica (is told what its profile lists)")
    ]
    data_dir: Annotated[File, Field(description="folder for its table; one for each instance")]
    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    tls: Annotated[bool, Field(description="speak TLS; without it only to this machine")] = False
    ca_file: Annotated[File | None, Field(description="certificates of who signed the receiver's certificate, PEM")] = None
    cert_file: Annotated[File | None, Field(description="our certificate for the receiver, PEM")] = None
    key_file: Annotated[File | None, Field(description="key of our certificate, PEM")] = None
    rate_per_s: Annotated[float, Field(description="most messages in a second", gt=0, le=100_000)] = 200.0
    region: Annotated[Name | None, Field(description="region that it is in; needed once there are rules of tenants")] = None
    purpose: Annotated[Name | None, Field(description="what it gets data for; needed once there are rules of tenants")] = None
    tenants: Annotated[tuple[Name, ...], Field(description="tenants whose data it gets; all that have rules if left out")] = ()
    modes_file: Annotated[
        File | None, Field(description="policy of its modes (modes.md); it freezes nothing here; the shipped one if left out")
    ] = None


class WorkerSettings(Section):
    """What the gate and the writers share as members of a Kafka group."""

    session_timeout_s: Annotated[Seconds, Field(description="a silent worker's partitions go to others after this")] = 20.0
    heartbeat_s: Annotated[Seconds, Field(description="time between signs of life")] = 3.0
    rebalance_timeout_s: Annotated[Seconds, Field(description="time to hand partitions over")] = 60.0
    commit_interval_s: Annotated[Seconds, Field(description="time between commits")] = 1.0
    drain_s: Annotated[Seconds, Field(description="time to finish what was begun when asked to stop")] = 20.0
    start_timeout_s: Annotated[
        Seconds, Field(description="a start that takes longer ends the process; while a recovery reads on, its time begins anew")
    ] = 120.0
    stall_timeout_s: Annotated[Seconds, Field(description="an event loop that stands still for so long ends the process")] = 15.0
    standby_replicas: Annotated[int, Field(description="further copies of each table, at other workers", ge=0, le=5)] = 1


class HealthSettings(Section):
    """Health and metrics, without patient data."""

    host: Annotated[str, Field(description="address to listen at")] = "127.0.0.1"
    base_port: Annotated[Port, Field(description="first port; roles on one machine take the next free ones")] = 9400


class LoggingSettings(Section):
    """Log lines, without patient data."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="least severe line that is shown")] = "INFO"
    as_json: Annotated[bool, Field(alias="json", description="JSON lines; else text for people")] = True
