"""Settings: which of several places wins, where a value is said to come from, and what is wrong with one that cannot be."""

from __future__ import annotations

import json
import os
import pwd
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dagrid.config import SETTINGS, Config, Setting, settings_of
from dagrid.config.kinds import FLAG
from dagrid.config.table import schema
from dagrid.config.times import duration, moment, zone
from dagrid.errors import InvalidSettingError


def sample(setting: Setting, number: int) -> str:
    """Return the n-th text that a setting takes; those of different numbers mean different things."""
    kind = setting.kind
    if kind is FLAG:
        return ("true", "false", "yes", "off")[number]
    if kind.choices:
        return kind.choices[number % len(kind.choices)]
    return {
        "DAY": f"2026-01-0{number + 1}",
        "TIME": f"{number + 1}h",
        "NUMBER": str(number + 3),
        "PORT": str(number + 3),
        "NAME=VALUE": f"A=v{number}",
        "NAME=NUMBER": f"A={number + 1}",
    }.get(kind.metavar, f"text{number}")


def meant(setting: Setting, text: str) -> Any:
    value = setting.kind.read(text)
    return (value,) if setting.kind.many else value


def written(path: Path, setting: Setting, text: str) -> Path:
    """Write a file that says one setting."""
    data: Any = [text] if setting.kind.many else text
    for part in reversed(setting.key.split(".")):
        data = {part: data}
    path.write_text(yaml.safe_dump(data))
    return path


@given(data=st.data())
def test_flag_over_environment_over_file_over_default(tmp_path_factory, data):
    """For every setting and whichever of these are there: the first of them counts, and is named."""
    setting = data.draw(st.sampled_from([one for one in SETTINGS if one.name not in ("config", "home")]))
    by_flag, by_variable, by_file = (data.draw(st.booleans()) for _ in range(3))
    home = tmp_path_factory.mktemp("home")
    environ = {"DAGRID_HOME": str(home)}
    given: dict[str, Any] = {}
    expected, source = setting.default, "default"
    if by_file:
        written(home / "config.yaml", setting, sample(setting, 2))
        expected, source = meant(setting, sample(setting, 2)), f"{home / 'config.yaml'}:"
        if setting.kind.metavar == "PATH" and not setting.kind.many:
            expected = str(home / expected)
    if by_variable:
        environ[setting.variable] = sample(setting, 1)
        expected, source = meant(setting, sample(setting, 1)), setting.variable
    if by_flag:
        given[setting.name] = (setting.flags[0], sample(setting, 0))
        expected, source = meant(setting, sample(setting, 0)), setting.flags[0]
    value = Config(given, environ).value(setting.name)
    assert value.value == expected
    assert value.source.startswith(source)


def test_no_two_settings_share_a_name():
    """As flags of one command, as variables, as keys."""
    assert len({one.key for one in SETTINGS}) == len({one.variable for one in SETTINGS}) == len(SETTINGS)
    commands = {command for one in SETTINGS for command in one.commands}
    for command in commands:
        flags = [flag for one in SETTINGS for flag in one.flags if not one.commands or command in one.commands]
        assert sorted(flags) == sorted(set(flags)), command
    assert all(one.flags or one.secret for one in SETTINGS), "what others must not see has no place on a command line"


@pytest.mark.parametrize(
    ("command", "short"),
    [
        ("coordinator", {"-H": "coordinator.host", "-P": "coordinator.port"}),
        ("start-all", {"-s": "host", "-p": "port", "-H": "coordinator.host", "-P": "coordinator.port"}),
        ("worker", {"-w": "worker.id", "-m": "worker.max_active_runs", "-l": "worker.labels"}),
        ("start", {"-p": "params", "-N": "name", "-r": "run_id"}),
        ("exec", {"-E": "exec.env", "-N": "name", "-r": "run_id"}),
        ("dequeue", {"-d": "dag_run"}),
        ("history", {"-f": "history.format", "-l": "history.limit", "-r": "run_id"}),
    ],
)
def test_short_flags_are_those_that_people_know(command, short):
    """Scripts that were written for the engine whose format this is need no other letters."""
    flags = {flag: one.name for one in settings_of(command) for flag in one.flags_of(command)}
    assert short.items() <= flags.items()


def test_the_letters_of_a_server_are_those_of_no_command_that_is_run():
    """`dagrid exec ls -l` says that there is no such flag, and does not take the next word for labels."""
    flags = {flag for one in settings_of("exec") for flag in one.flags_of("exec")}
    assert flags.isdisjoint({"-l", "-H", "-P", "-m", "-w", "-s"})


def test_where_the_home_is(tmp_path):
    """A flag, a variable, a named file, the data folder of XDG, or that under the user's home."""
    far = tmp_path / "far.yaml"
    far.write_text("home: here\n")
    assert Config({}, {"HOME": "/h"}).home == Path("/h/.local/share/dagrid")
    assert Config({}, {"HOME": "/h", "XDG_DATA_HOME": "/x"}).home == Path("/x/dagrid")
    assert Config({}, {"HOME": "/h", "XDG_DATA_HOME": "relative"}).home == Path("/h/.local/share/dagrid")
    assert Config({}, {"HOME": "/h", "DAGRID_CONFIG": str(far)}).home == tmp_path / "here"
    assert Config({}, {"HOME": "/h", "DAGRID_CONFIG": str(far), "DAGRID_HOME": "/e"}).home == Path("/e")
    assert Config({"home": ("--dagrid-home", "/f")}, {"DAGRID_HOME": "/e"}).home == Path("/f")
    assert Config({"home": ("--dagrid-home", "/f")}, {}).value("config").value == "/f/config.yaml"


def test_nobody_knows_where_the_home_is(monkeypatch):
    """In a container whose user has no name `dagrid` had a fault; where HOME is empty it used a folder of the root."""
    assert Config({}, {"HOME": ""}).home == Path(pwd.getpwuid(os.getuid()).pw_dir, ".local/share/dagrid")
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_123)
    with pytest.raises(InvalidSettingError, match="Name a folder for runs: --dagrid-home, or DAGRID_HOME"):
        _ = Config({}, {}).home
    assert Config({}, {"DAGRID_HOME": "/e"}).home == Path("/e")


def config(tmp_path: Path, text: str, name: str = "config.yaml") -> Config:
    (tmp_path / name).write_text(text)
    return Config({"config": ("--config", str(tmp_path / name))}, {"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quit: true", r":1:1: there is no setting 'quit'. Did you mean 'quiet'\?"),
        (
            "quiet: true\nhistory: {limti: 3}",
            r":2:11: there is no setting 'history.limti'. Did you mean 'history.limit'\?",
        ),
        ("quiet: maybe", r":1:1: quiet is true or false, not 'maybe'"),
        ("history:\n  limit: -1", r":2:3: history.limit is a whole number from 0 up, not '-1'"),
        ("history.limit: 3", r":1:1: history.limit is written as a mapping in a mapping: history: {limit: ...}"),
        ("history: 3", r":1:1: history holds settings by name, such as history.from"),
        ("history:\n  limit: [1]", r":2:3: history.limit is a whole number"),
        ("history: {status: [faild]}", r"one of queued, .*, not 'faild'. Did you mean 'failed'\?"),
        ("quiet: true\nquiet: false", r"^[^ ]+:2:1: there are two values of 'quiet'. Keep one.$"),
        ("paths: {dagsDir: a, dags_dir: b}", r":1:21: dags_dir is dagsDir in another spelling. Keep one"),
        ("- quiet", "settings are a mapping of names, not list"),
        ("a: [", r":2:1: this is no YAML: .*\. Check quotes, and the indentation"),
        ("history:\n\tlimit: 3", r":2:1: this is no YAML: .*\. Check .* indentation, which is of spaces alone"),
        ("resources: {gpu: 0}", r":1:1: resources is NAME=number greater than 0, not 'gpu=0'"),
        ("tz: \x00", "this is no YAML"),
    ],
)
def test_a_file_that_cannot_be(tmp_path, text, said):
    """Where it is wrong, what is wrong, and what would be right."""
    with pytest.raises(InvalidSettingError, match=said) as caught:
        config(tmp_path, text).all()
    assert str(tmp_path / "config.yaml") in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("c.yaml", "{}"), ("c.json", '{{"a": {}}}'), ("c.toml", "a = {}")])
def test_a_file_that_nests_without_end(tmp_path, name, text):
    """It is refused in words; it ended the process."""
    with pytest.raises(InvalidSettingError, match=rf"{name}: settings are not nested so deep"):
        config(tmp_path, text.format("[" * 100_000), name)["quiet"]


def test_a_file_that_is_not_there(tmp_path):
    """One that is named must be; the one in the home need not."""
    with pytest.raises(InvalidSettingError, match=r"none\.yaml: the settings cannot be read: No such file"):
        Config({}, {"DAGRID_CONFIG": str(tmp_path / "none.yaml")})["quiet"]
    assert Config({}, {"DAGRID_HOME": str(tmp_path)})["quiet"] is False


def test_the_file_in_the_home_cannot_move_the_home(tmp_path):
    """It would be another file that counts then."""
    (tmp_path / "config.yaml").write_text("home: /elsewhere\n")
    with pytest.raises(InvalidSettingError, match=r"config\.yaml:1:1: the file in the home cannot say"):
        Config({}, {"DAGRID_HOME": str(tmp_path)})["quiet"]


def test_keys_in_snake_case_toml_and_json(tmp_path):
    """One spelling is documented, and the other one is understood; a file may be of another kind."""
    assert config(tmp_path, "cleanup: {retention_days: 3}")["cleanup.retention_days"] == 3
    assert config(tmp_path, "[cleanup]\nretentionDays = 4\n", "c.toml")["cleanup.retention_days"] == 4
    assert config(tmp_path, '{"cleanup": {"retentionDays": 5}}', "c.json")["cleanup.retention_days"] == 5
    assert config(tmp_path, "", "empty.yaml")["cleanup.retention_days"] == 0
    assert config(tmp_path, "{}", "empty.json")["quiet"] is False
    with pytest.raises(InvalidSettingError, match=r"there are two values of 'limit'. Keep one"):
        config(tmp_path, '{"history": {"limit": 5, "limit": 6}}', "twice.json")["history.limit"]
    for name in ("bad.toml", "bad.json"):
        with pytest.raises(InvalidSettingError, match=f"{name}.*this is no"):
            config(tmp_path, "{,", name).all()


@pytest.mark.parametrize("value", ["3.10", "0x10", "012", "1_000", "1e3", "True", "no", "12:30", "2026-01-31"])
def test_a_label_is_the_text_that_was_written(tmp_path, value):
    """Whatever YAML would make of it; a selector is compared with it to the letter."""
    assert config(tmp_path, f"worker: {{labels: {{it: {value}}}}}")["worker.labels"] == (("it", value),)
    assert config(tmp_path, f"worker: {{id: {value}}}")["worker.id"] == value


@pytest.mark.parametrize("name", [" ", "two\nlines", "\x1b[31mred", "\udcff", "\u2028", "x" * 501])
def test_a_worker_is_called_what_fits_into_a_line(name):
    """Its name stands in the lines of logs, and who reads them tells workers by it; without one it has one of its own."""
    with pytest.raises(InvalidSettingError, match=r"--worker.id is .*left out"):
        Config({"worker.id": ("--worker.id", name)}, {})["worker.id"]
    with pytest.raises(InvalidSettingError, match="DAGRID_WORKER_ID is "):
        Config({}, {"DAGRID_WORKER_ID": name})["worker.id"]
    assert Config({"worker.id": ("--worker.id", " one two ")}, {})["worker.id"] == "one two"


@pytest.mark.parametrize("label", ["gpu =true", "gpu= true", "gpu=a\nb", "gp\tu=a", "gpu=\udcff", " =a", "gpu"])
def test_a_label_that_no_selector_names_is_refused(label):
    """A blank beside `=` would be a part of the label, which nobody sees who compares it with a selector."""
    with pytest.raises(InvalidSettingError, match=r"--worker.labels is NAME=value .* not"):
        Config({"worker.labels": ("--worker.labels", f"zone=a, {label}")}, {})["worker.labels"]


def test_numbers_of_json_and_toml_are_labels_as_they_were_written(tmp_path):
    """A label is none that has lost its last digit."""
    labels = (("python", "3.10"), ("memory", "64"), ("gpu", "true"))
    toml = "[worker.labels]\npython = 3.10\nmemory = 64\ngpu = true\n"
    json_ = '{"worker": {"labels": {"python": 3.10, "memory": 64, "gpu": true}}}'
    assert config(tmp_path, toml, "c.toml")["worker.labels"] == labels
    assert config(tmp_path, json_, "c.json")["worker.labels"] == labels


@pytest.mark.parametrize(("name", "flag"), [("worker.labels", "--worker.labels"), ("resources", "--resources")])
def test_nothing_is_said_twice_in_different_words(name, flag):
    """One of both would count, and nobody would know which; the same twice does no harm."""
    with pytest.raises(InvalidSettingError, match=f"{flag} says two things of 'gpu': "):
        Config({name: (flag, ["gpu=1,zone=2", "gpu=2"])}, {})[name]
    assert len(Config({name: (flag, "gpu=1,gpu=1")}, {})[name]) == 2


def test_a_host_is_a_host_alone():
    """A URL would be called for ever, and never answer."""
    for host in ("coordinator.example.com", "10.0.0.5", "::1", "fe80::1%eth0", "my_host"):
        assert Config({"host": ("--host", host)}, {})["host"] == host
    assert Config({"host": ("--host", "[::1]")}, {})["host"] == "::1"
    for wrong in ("grpcs://127.0.0.1", "127.0.0.1:50055", "host/path", "host:1", "a b"):
        for name in ("worker.coordinator_host", "coordinator.host", "host"):
            with pytest.raises(
                InvalidSettingError, match=r"--a-flag is the name or the address .*its port is .*TLS is meant by"
            ):
                Config({name: ("--a-flag", wrong)}, {})[name]


def test_a_variable_that_cannot_be():
    """The message names the variable."""
    with pytest.raises(InvalidSettingError, match="DAGRID_HISTORY_LIMIT is a whole number from 0 up, not 'ten'"):
        Config({}, {"DAGRID_HISTORY_LIMIT": "ten"})["history.limit"]
    with pytest.raises(InvalidSettingError, match="--input is NAME=value, not 'x'"):
        Config({"input": ("--input", ["a=1", "x"])}, {})["input"]


def test_an_empty_variable_says_nothing():
    """As in most programs, and in shells where one cannot easily be without."""
    assert Config({}, {"DAGRID_QUIET": ""}).value("quiet").source == "default"


def test_variables_that_nobody_reads():
    """A mistake in a name is found where settings are shown."""
    found = Config({}, {"DAGRID_QIUET": "1", "DAGRID_TZ": "UTC", "OTHER": "x"}).unknown_variables()
    assert found == [("DAGRID_QIUET", "DAGRID_QUIET")]


def test_a_file_is_read_only_when_it_is_needed(tmp_path):
    """What is wrong with it is nobody's business who has said all that is asked for."""
    made = config(tmp_path, "nonsense: 1")
    assert Config({**made._given, "quiet": ("-q", "true")}, {})["quiet"] is True
    with pytest.raises(InvalidSettingError):
        made["quiet"]


def test_the_schema_is_the_table():
    """An editor that is given it knows every key, and no other."""
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    check = jsonschema.Draft202012Validator(made)
    assert check.is_valid({"quiet": True, "history": {"limit": 3, "status": ["failed"]}, "paths": {"dagsDir": "x"}})
    for wrong in ({"quit": True}, {"history": {"limit": -1}}, {"history": {"x": 1}}, {"quiet": "yes"}):
        assert not check.is_valid(wrong), wrong
    leaves = json.dumps(made).count('"description"')
    assert leaves == len(SETTINGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5m", 90),
        ("2h", 7200),
        ("7d", 604800),
        ("1w", 604800),
        ("1h30m", 5400),
        ("500ms", 0.5),
    ],
)
def test_spans(text, expected):
    """As people write them."""
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "h", "3x", "1h 3", "-1h", "1h30", "h1"])
def test_what_is_no_span(text):
    """A guess would list the wrong runs."""
    with pytest.raises(ValueError):
        duration(text)


def test_moments():
    """Days, times, zones, and the words for the days that are asked for most."""
    utc, berlin = zone("UTC"), zone("Europe/Berlin")
    assert moment("2026-01-31") == datetime(2026, 1, 31).timestamp()
    assert moment("2026-01-31", utc) - moment("2026-01-31", berlin) == 3600
    assert moment("2026-01-31T02:00+02:00", berlin) == datetime(2026, 1, 31, tzinfo=UTC).timestamp()
    assert moment("today", utc) - moment("yesterday", utc) == 86400
    # Now is now everywhere, and a day is that of the zone, whichever this machine is in.
    for name in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"):
        there = zone(name)
        assert abs(moment("now", there) - time.time()) < 60
        midnight = datetime.fromtimestamp(moment("today", there), there)
        assert (midnight.hour, midnight.minute, midnight.date()) == (0, 0, datetime.now(there).date())
    assert zone(None) is None
    for wrong in ("Nowhere/Land", "../etc/passwd", "a\x00"):
        with pytest.raises(ValueError):
            zone(wrong)
    for wrong in ("31.1.2026", "0001-01-01"):
        with pytest.raises(ValueError):
            moment(wrong)


def test_toml_reads_as_yaml_does(tmp_path):
    """The same settings in either; what is a list in one is a list in the other."""
    toml = '[history]\nstatus = ["failed", "aborted"]\nlimit = 7\n'
    one, other = config(tmp_path, toml, "c.toml"), config(tmp_path, yaml.safe_dump(tomllib.loads(toml)))
    for name in ("history.status", "history.limit"):
        assert one[name] == other[name]
    assert one["history.status"] == ("failed", "aborted")
