"""Settings: whole or not at all, and every error names the key, what was expected, what was found, and what to do."""

from pathlib import Path

import pytest

from vitals.errors import SettingsError
from vitals.settings import Settings, load, secret


def write(folder: Path, text: str) -> Path:
    path = folder / "vitals.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as told:
        load(write(folder, text), environ or {})
    assert told.value.exit_code == 2
    assert told.value.expected
    assert told.value.found
    assert told.value.do
    return str(told.value)


def test_an_empty_file_is_the_defaults_on_loopback(tmp_path: Path) -> None:
    settings = load(write(tmp_path, ""), {})
    assert settings.broker.host == settings.board.host == "127.0.0.1"
    assert settings.ingest.store.path == str(tmp_path / "var/store.db")


def test_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no settings file"):
        load(tmp_path / "none.toml", {})


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    assert "line 2" in refusal(tmp_path, "[site]\nid = \n")


def test_a_misspelt_key_is_never_ignored(tmp_path: Path) -> None:
    text = refusal(tmp_path, "[broker]\nprot = 1883\n")
    assert "'prot'" in text
    assert "port" in text


def test_a_misspelt_key_of_a_device_lists_the_keys_of_a_device(tmp_path: Path) -> None:
    text = refusal(tmp_path, '[[gateway.devices]]\nname="a"\ndriver="b"\nroom="1"\nadress="x"\n')
    assert "address" in text
    assert "gateway.devices[0]" in text


def test_a_wrong_type_names_the_key_and_the_value(tmp_path: Path) -> None:
    text = refusal(tmp_path, '[board]\nport = "eighty"\n')
    assert "board.port" in text
    assert "'eighty'" in text


@pytest.mark.parametrize("port", [0, 65_536, -1])
def test_a_port_out_of_range(tmp_path: Path, port: int) -> None:
    assert "board.port" in refusal(tmp_path, f"[board]\nport = {port}\n")


@pytest.mark.parametrize("name", ["", "Room 1", "a/b", "a+", "#", "x" * 33])
def test_a_name_that_would_break_a_topic(tmp_path: Path, name: str) -> None:
    assert "site.id" in refusal(tmp_path, f'[site]\nid = "{name}"\n')


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[broker]\nport = 1\n")
    settings = load(path, {"VITALS_BROKER__PORT": "1884", "VITALS_SITE__NAME": "My clinic", "VITALS_SHARED": "/x"})
    assert (settings.broker.port, settings.site.name) == (1884, "My clinic")


def test_a_wrong_override_is_refused_like_a_wrong_key(tmp_path: Path) -> None:
    assert "broker" in refusal(tmp_path, "", {"VITALS_BROKER__PROT": "1"})


def test_another_machine_without_tls_needs_consent(tmp_path: Path) -> None:
    assert "TLS" in refusal(tmp_path, '[broker]\nhost = "10.0.0.5"\n')
    load(write(tmp_path, '[broker]\nhost = "10.0.0.5"\nallow_plain = true\n'), {})


def test_two_devices_of_one_name(tmp_path: Path) -> None:
    device = '[[gateway.devices]]\nname="a"\ndriver="d"\nroom="1"\n'
    assert "twice: a" in refusal(tmp_path, device * 2)


def test_an_unknown_time_zone(tmp_path: Path) -> None:
    assert "America/Chicago" in refusal(tmp_path, '[site]\ntimezone = "Mars/Olympus"\n')


def test_a_secret_comes_from_its_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("s3cret\n", encoding="utf-8")
    assert secret(str(tmp_path / "pw"), "X", {}) == "s3cret"
    assert secret("", "X", {"X": " env\n"}) == "env"
    assert secret("", "X", {}) is None
    with pytest.raises(SettingsError, match="cannot be read"):
        secret(str(tmp_path / "none"), "X", {})
    (tmp_path / "pw").write_bytes(b"s3cret\xff")
    with pytest.raises(SettingsError, match="UTF-8") as caught:
        secret(str(tmp_path / "pw"), "X", {})
    assert "s3cret" not in str(caught.value)


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "settings.md").read_text(encoding="utf-8")
    missing = [key for key in keys(Settings, "") if f"`{key}`" not in text]
    assert missing == []


def keys(kind: type, prefix: str) -> list[str]:
    found: list[str] = []
    for name, hint in kind.__annotations__.items():
        inner = getattr(hint, "__args__", (hint,))[0]
        if hasattr(inner, "__struct_fields__"):
            found += keys(inner, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found
