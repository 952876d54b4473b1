"""What whoever may write under `/fairlead/`, or stands between proxies, cannot do: each rule has a
test that tries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SHARED = "unit/test_shared_settings.py::test_"
WRITERS = "unit/test_hostile_writers.py::test_"
RULES = {
    "nothing of the environment is told": [f"{SHARED}variables_of_the_machine_are_not_told"],
    "no command, import, file, endless text": [f"{SHARED}a_hostile_writer_is_refused_with"],
    "no import as a route's filter": [f"{SHARED}a_hostile_route_is_refused_with_an_import"],
    "no dashboard in public": [f"{SHARED}a_hostile_route_is_refused_that_publishes"],
    "no file of a filter": [
        f"{WRITERS}no_filter_of_the_key_reads_a_file",
        f"{SHARED}files_of_every_filter_are_found",
    ],
    "no section that is the machine's": [f"{WRITERS}no_section_of_the_machine_is_taken"],
    "no filter of the machine is replaced": [f"{SHARED}filters_of_the_file_are_there"],
    "trust is the local file's to give": [
        f"{SHARED}trust_is_given_by_the_machines_own_file",
        f"{SHARED}a_python_name_among_plugins_may_be_used",
    ],
    "instances lead where those of a registry may": [
        "unit/test_pools.py::test_instances_of_a_shared_configuration_may_lead_no_further"
    ],
    "filters ask where instances may lead": [
        "e2e/test_filter_destinations.py::test_the_admin_server_is_nobody_s_to_ask",
        "e2e/test_filter_destinations.py::test_metadata_services_are_nobody_s_to_ask",
        "e2e/test_filter_destinations.py::test_keys_are_not_fetched",
    ],
    "a bad text leaves the last good one": [
        "e2e/test_fleet.py::test_a_start_waits_for_the_key_and_the_good_one_is_kept",
        f"{WRITERS}of_a_canary_leaves_the_key_in_force",
    ],
    "a kept text is of the key, and whole": ["e2e/test_fleet.py::test_a_start_takes_what_was_kept"],
    "nobody overwrites unseen": ["unit/test_fleet_versions.py::test_a_push_does_not_hold"],
    "what was spoilt can be taken back": [f"{WRITERS}of_a_canary_and_a_version_can_be_taken_back"],
    "a mark drains its instance and spoils no other": [
        f"{WRITERS}of_a_mark_drains_its_instance",
        f"{WRITERS}keys_that_are_no_text",
        f"{WRITERS}marks_that_people_are_shown",
    ],
    "who says he is a proxy harms no reader": [
        f"{WRITERS}of_a_proxy_is_one_that_does_not_serve",
        "unit/test_fleet_shares.py::test_a_load_that_is_none_counts_as_nothing",
    ],
    "proxies ask under verified TLS, signed, and show no token": [
        "e2e/test_fleet_calls.py::test_a_proxy_shows_what_all_see_and_sends_strangers_nothing",
        "unit/test_fleet_signing.py::test_a_signature_for_anything_else_is_refused",
        "unit/test_fleet_signing.py::test_a_signature_is_good_once",
    ],
    "instances bring routes within bounds": [
        "e2e/test_routes_from_instances.py::test_an_instance_brings_a_route_and_nobody_takes_it",
        "unit/test_claims_of_routes.py::test_a_claim_outside_the_bounds_is_none",
        "unit/test_claims_of_routes.py::test_a_claim_in_another_spelling_takes_no_route_away",
        "unit/test_claims_of_routes.py::test_no_service_has_more_routes_than_it_may",
    ],
    "certificates are sealed, each for its place": [
        "unit/test_acme_seal.py::test_a_value_of_another_place_or_key_or_changed_is_none",
        "e2e/test_acme_fleet.py::test_one_proxy_orders_and_the_other_answers_and_both_serve",
    ],
    "a relay tells nobody without its token, and nobody goes back": [
        "e2e/test_relay.py::test_a_relay_tells_nobody_who_has_no_token",
        "e2e/test_relay.py::test_a_follower_does_not_go_back",
        "e2e/test_relay.py::test_a_follower_of_a_relay_that_lies_keeps_what_it_knows",
        "e2e/test_relay.py::test_a_follower_that_does_not_read_is_cut",
        "unit/test_relay.py::test_a_history_tells_everything_to_whoever_has_no_parts",
    ],
    "each has the rights of his role in etcd": ["e2e/test_etcd_backup.py::test_the_runbook"],
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_its_tests(rule: str) -> None:
    for test in RULES[rule]:
        file, _, name = test.partition("::")
        found = re.findall(r"^ *(?:async )?def (test_\w+)", (TESTS / file).read_text(), re.M)
        assert any(one.startswith(name) for one in found), test
