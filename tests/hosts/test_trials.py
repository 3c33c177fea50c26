"""What becomes of connections that are tried: read from what qemu-io says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.hosts.trials import parse_trial, parse_writes
from godwit.model import Trial, TrialEnd
from godwit.units import KIB, MIB

WROTE = "wrote 262144/262144 bytes at offset 0\n256 KiB, 1 ops; 00.01 sec (25.6 MiB/sec and 100 ops/sec)\n"
READ = "read 262144/262144 bytes at offset 0\n256 KiB, 1 ops; 00.00 sec (1 GiB/sec and 100 ops/sec)\n"
REFUSED = "qemu-io: can't open device nbd://h:1/x: Failed to connect to 'h:1': Connection refused"
TLS = "qemu-io: can't open device json:{}: The certificate does not match the hostname 198.18.0.9"

LITTLE = WROTE.replace("262144", "16384").replace("256 KiB", "16 KiB")
OPENING = (
    'qemu-io: can\'t open device json:{"driver": "nbd", "tls-creds": "tls", "export": "tls.certificate-web.trial-7", '
    '"server": {"type": "inet", "host": "refused.example"}}: '
)
REFUSALS = (
    "The certificate has expired",
    "TLS handshake failed: The TLS connection was non-properly terminated.",
    "Failed to read option response: Cannot read from TLS channel: Input/output error",
    "Failed to read initial magic: Unexpected end-of-file before all data were read",
    "Bad initial magic received: 0x485454502f312e31",
    "Unable to read from socket: Connection reset by peer",
)
OTHERS = (
    "write failed: No space left on device",
    "write failed: Input/output error",
    "Requested export not available",
    "invalid object type: tls-creds-x509",
    "Unable to access credentials /run/godwit-tls/x/ca-cert.pem: No such file or directory",
    "unknown option -- 'f'",
    "Cannot allocate memory",
)


@pytest.mark.parametrize(
    ("said", "end", "words"),
    [
        (f"works\n{WROTE}{READ}", TrialEnd.WORKS, ""),
        ("works\nwrote 262144/262144", TrialEnd.UNTRIED, "wrote 262144/262144"),
        ("stalled\n", TrialEnd.STALLED, ""),
        ("untried there is no qemu-io", TrialEnd.UNTRIED, "there is no qemu-io"),
        (f"refused\n{REFUSED}", TrialEnd.UNCONNECTED, REFUSED),
        (f"refused\n{TLS}", TrialEnd.REFUSED, TLS),
        ("", TrialEnd.UNTRIED, "the shell said nothing"),
        (f"stalled\n{LITTLE}", TrialEnd.STALLED, ""),
        (f"stalled\n{LITTLE}{LITTLE.replace('wrote', 'read')}", TrialEnd.WORKS, "slow: 272 KiB and back take over 5 s"),
        *((f"refused\n{OPENING}{words}", TrialEnd.REFUSED, f"{OPENING}{words}") for words in REFUSALS),
        *((f"refused\n{OPENING}{words}", TrialEnd.UNTRIED, f"{OPENING}{words}") for words in OTHERS),
    ],
)
def test_how_a_trial_ended(said: str, end: TrialEnd, words: str) -> None:
    assert parse_trial(said, 49152) == Trial(end, words, 49152)


def test_only_what_was_written_counts_and_each_at_its_rate() -> None:
    assert parse_writes(WROTE + READ) == (256 * KIB, 256 * KIB / (25.6 * MIB))
    sent, seconds = parse_writes(WROTE * 4)
    assert sent == MIB
    assert seconds == pytest.approx(4 * 256 * KIB / (25.6 * MIB))
    assert parse_writes(READ) == (0, 0.0)


@given(st.text())
def test_a_host_may_say_anything_of_a_trial(said: str) -> None:
    assert parse_trial(said, 1).port == 1
    sent, seconds = parse_writes(said)
    assert sent >= 0
    assert seconds >= 0.0
