"""The comparison of evaluator and contracts, in its short form: on stand-ins of our own, which anybody can compile.

``make onchain ARTIFACTS=dir`` runs it on the public contracts; so does this file where ``ARTIFACTS`` names them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.onchain import run
from tests.onchain.artifacts import DEPLOYED_1_15, MODELS, OURS, create2, read_artifacts, write_stand_ins
from tests.onchain.chain import PolicyChain, put_policies
from tests.onchain.compare import Tally, compare, shorten
from tests.onchain.draws import WHITELIST
from tests.onchain.mutations import MUTATIONS
from tests.support.anvil import need_anvil, need_node
from worker.devnet import compile_contracts
from worker.devnet.anvil import Anvil
from worker.devnet.rpc import JsonRpc
from worker.policies import ArgPolicy, Sudo, UniversalAction, UsageLimit
from worker.policies.policy import PolicyModel

pytestmark = pytest.mark.services

SEQUENCES = 150
#: Most bugs are found in ten sequences, and the rarest edge in some hundred.
ENOUGH = 1200
PUBLIC = os.environ.get("ARTIFACTS", "")


def _type(model: type[PolicyModel]) -> str:
    return str(model.model_fields["type"].default)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts: the public ones if ``ARTIFACTS`` names them, else our stand-ins."""
    if PUBLIC:
        return Path(PUBLIC)
    made = tmp_path_factory.mktemp("stand-ins")
    write_stand_ins(made)
    return made


@pytest.fixture(scope="module")
def chain(folder: Path) -> Iterator[PolicyChain]:
    """The policies on a chain."""
    need_anvil()
    with Anvil() as anvil, JsonRpc(anvil.rpc_url) as rpc:
        yield put_policies(rpc, read_artifacts(folder), WHITELIST)


class TestSides:
    """Both sides judge the same, and a comparison that could not fail would be found out."""

    def test_no_sequence_differs_and_every_policy_passes_and_refuses(self, chain: PolicyChain) -> None:
        tally = Tally()
        for number in range(SEQUENCES):
            compare(chain, number, tally)
        assert not tally.differences, shorten(chain, tally.differences[0])
        assert tally.sequences == SEQUENCES
        for model in chain.policies:
            kind = _type(model)
            assert tally.seen[f"{kind} passed"] >= 5, kind
            assert tally.seen[f"{kind} refused"] >= 5 or kind == "sudo", kind
        assert tally.seen["states"] > 10_000
        assert tally.seen["stricter"] < SEQUENCES // 20

    @pytest.mark.parametrize("name", MUTATIONS)
    def test_a_planted_bug_is_found(
        self, name: str, chain: PolicyChain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        MUTATIONS[name](monkeypatch.setattr)
        tally = Tally()
        # the fewer policies there are, the sooner it matters
        policy = name.partition(":")[0]
        models = {Sudo, UsageLimit} | {one for one in chain.policies if _type(one) == policy}
        models |= {UniversalAction, ArgPolicy} if policy == "rules" else set()
        for number in range(ENOUGH):
            compare(chain, number, tally, sorted(models, key=_type))
            if tally.differences:
                break
        assert tally.differences, f"{name} is not found in {ENOUGH} sequences"


class TestDeployed:
    """What SDK 1.15 names is known code: its address is derived from it."""

    @pytest.mark.parametrize("model", DEPLOYED_1_15, ids=_type)
    def test_the_address_of_1_15_is_that_of_the_code(self, model: type[PolicyModel]) -> None:
        assert create2(*DEPLOYED_1_15[model]) == model.address

    def test_another_code_is_not_taken_for_it(self, folder: Path) -> None:
        assert not any(artifact.is_of_1_15 for artifact in read_artifacts(folder).values() if not PUBLIC)


class TestRun:
    """``make onchain``: what it says, and with which code it ends."""

    @pytest.mark.parametrize("where", ["", "no such folder"])
    def test_without_a_folder_it_is_skipped_with_a_reason(
        self, where: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run.main(["--artifacts", where]) == 0
        assert re.match(r"onchain: skipped, .*(not given|no folder)", capsys.readouterr().out)

    def test_a_folder_without_artifacts_is_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run.main(["--artifacts", str(tmp_path)]) == 2
        assert capsys.readouterr().out.splitlines()[-1] == "ARTIFACTS: holds none of these contracts"

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "[]",
            "{}",
            '{"abi": [], "bytecode": {"object": "0x60__$library$__"}}',
            '{"abi": 1, "bytecode": 2}',
        ],
    )
    def test_a_file_that_is_no_artifact_is_named(
        self, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "SudoPolicy").mkdir()
        (tmp_path / "SudoPolicy" / "SudoPolicy.json").write_text(content)
        assert run.main(["--artifacts", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert "SudoPolicy.json is no compiled contract" in error
        assert "ARTIFACTS" in error

    def test_a_missing_artifact_is_named_and_the_others_are_judged_on_a_fork(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        need_anvil()
        write_stand_ins(tmp_path)
        (tmp_path / "ArgPolicy" / "ArgPolicy.json").unlink()
        sudo = json.loads((OURS / "SudoPolicy.json").read_text())["deployedBytecode"]
        with Anvil() as node, JsonRpc(node.rpc_url) as rpc:
            rpc.call("anvil_setCode", Sudo.address, sudo)
            rpc.call("anvil_setCode", Sudo.v2_address, "0x6001")
            monkeypatch.setenv("BASE_RPC_URL", node.rpc_url)
            assert run.main(["--artifacts", str(tmp_path), "--number", "4", "--processes", "1"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(
            re.fullmatch(r" +ArgPolicy +keeps state +not judged: no such artifact", line) for line in lines
        )
        assert "on a fork of BASE_RPC_URL" in lines
        assert f"of SDK 1.15 at {Sudo.address}: the artifact's code" in " ".join(lines)
        assert f"of SDK 2.x  at {Sudo.v2_address}: another code (2 bytes" in " ".join(lines)
        assert not any(line.strip().startswith("arg-policy") for line in lines)
        assert lines[-1] == "sequences=4 differences=0"

    def test_a_difference_is_cut_down_and_ends_with_1(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A contract that lets everything pass, in place of another."""
        need_anvil()
        write_stand_ins(tmp_path)
        sudo = (tmp_path / "SudoPolicy" / "SudoPolicy.json").read_text()
        (tmp_path / "UsageLimitPolicy" / "UsageLimitPolicy.json").write_text(sudo)
        assert run.main(["--artifacts", str(tmp_path), "--number", "3", "--processes", "1"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"sequences=3 differences=[123]", lines[-1])
        assert any("UsageLimit" in line and "differs: " in line for line in lines)
        assert any("enables in session 0x" in line for line in lines)


class TestContracts:
    """The driver, the window and the stand-ins."""

    def test_recompiling_gives_the_committed_artifacts(self) -> None:
        need_node()
        fresh = compile_contracts.compiled(OURS.parent)
        assert fresh == {path.stem: json.loads(path.read_text()) for path in OURS.glob("*.json")}, (
            "run python -m worker.devnet.compile_contracts tests/onchain/contracts and commit the result"
        )
        assert set(fresh) == {*MODELS, "PolicyDriver", "StorageWindow"}
