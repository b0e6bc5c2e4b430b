"""The recipes in docs/ci: what they name is there. Their command lines are held to the program by test_help.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from captured import capture

from kubectl_svcroute.audit.cluster import audit
from kubectl_svcroute.collect.archive import load_snapshot
from kubectl_svcroute.model.report import ExitCode
from kubectl_svcroute.render import render

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "docs" / "ci").iterdir())


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", RECIPES, ids=[path.name for path in RECIPES])
def test_a_recipe_is_yaml_and_in_the_readme(path: Path) -> None:
    """It can be read, and found."""
    assert all(documents(path))
    assert f"(docs/ci/{path.name})" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_cronjob_has_the_roles_that_it_needs() -> None:
    """Every role that is bound is one of docs/rbac.yaml, of the same kind, and all of them are: exec is how it reads."""
    roles = {(found["kind"], found["metadata"]["name"]) for found in documents(ROOT / "docs" / "rbac.yaml")}
    made = documents(ROOT / "docs" / "ci" / "cronjob.yaml")
    bound = {(found["roleRef"]["kind"], found["roleRef"]["name"]) for found in made if "roleRef" in found}
    assert bound == roles
    account = next(found["metadata"] for found in made if found["kind"] == "ServiceAccount")
    subjects = [subject for found in made for subject in found.get("subjects", ())]
    assert {(s["name"], s["namespace"]) for s in subjects} == {(account["name"], account["namespace"])}
    (cron,) = (found for found in made if found["kind"] == "CronJob")
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["name"]
    assert cron["metadata"]["namespace"] == account["namespace"]
    assert pod["restartPolicy"] == "Never"
    assert cron["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert pod["containers"][0]["securityContext"]["runAsNonRoot"] is True


def test_alerts_ask_for_metrics_that_there_are() -> None:
    """A rule on a metric of another name would be silent for ever."""
    snapshot = load_snapshot(capture("v1.36-iptables-nft"))
    text = render(audit(snapshot.api, [snapshot.nodes[0].read()]), "prometheus")
    written = set(re.findall(r"^# TYPE (svcroute_\w+)", text, re.MULTILINE))
    (rules,) = documents(ROOT / "docs" / "ci" / "alerts.yaml")
    asked = set(re.findall(r"\bsvcroute_\w+", json.dumps(rules)))
    assert asked - written == set()
    assert {"svcroute_findings", "svcroute_verified"} <= asked


def test_gitlab_lets_pass_what_was_not_verified_and_nothing_else() -> None:
    """The exit status that only warns is the program's, and findings fail."""
    (pipeline,) = documents(ROOT / "docs" / "ci" / "gitlab-ci.yml")
    assert pipeline["svcroute"]["allow_failure"]["exit_codes"] == [int(ExitCode.NOT_VERIFIED)]
