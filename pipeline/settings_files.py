"""What the settings of partners that send files may not say together."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.settings_model import FilesSettings


def problems_of_partners(section: FilesSettings) -> Iterator[tuple[str, str, str]]:
    """Each problem: the setting, what is wrong, what to write in its place."""
    folders: dict[Path, str] = {section.data_dir: "files.data_dir"}
    for name, partner in section.partners.items():
        where = f"files.partners.{name}"
        for path, setting in folders.items():
            if partner.folder == path or path in partner.folder.parents or partner.folder in path.parents:
                yield f"{where}.folder", f"it and {setting} lie within each other", "Give each a folder of its own"
        folders.setdefault(partner.folder, f"{where}.folder")
        if partner.must_encrypt and not partner.decrypt_keys:
            yield f"{where}.decrypt_keys", "missing, though must_encrypt is set", "Write: age-keygen -o files.key"
        if len({signer.key_id for signer in partner.signers}) < len(partner.signers):
            yield f"{where}.signers", "two keys have one id", "Give each key its own id"
        if partner.give_up_s < partner.patience_s:
            yield f"{where}.give_up_s", "less than patience_s", "Write at least patience_s"
