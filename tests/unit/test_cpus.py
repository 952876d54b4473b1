"""How many CPUs there are to be used, from trees of files such as kernels show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy import cpus

V2 = "31 23 0:28 {root} {place} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {root} {place} rw,relatime - cgroup cgroup rw,{controllers}"
UNIFIED = "/sys/fs/cgroup"
CPU = "/sys/fs/cgroup/cpu,cpuacct"


def v2(root: str = "/", place: str = UNIFIED) -> str:
    return V2.format(root=root, place=place)


def v1(root: str = "/", place: str = CPU, controllers: str = "cpu,cpuacct") -> str:
    return V1.format(root=root, place=place, controllers=controllers)


def old(group: str, quota: str, period: str = "100000") -> dict[str, str]:
    """The files of a group of version 1."""
    place = f"{CPU}{group}"
    return {f"{place}/cpu.cfs_quota_us": quota, f"{place}/cpu.cfs_period_us": period}


def quota(tmp_path: Path, own: str, mounts: list[str], files: dict[str, str]) -> int | None:
    other = "22 1 254:0 / / rw - ext4 /dev/root rw"
    files = {
        **files,
        "/proc/self/cgroup": f"{own}\n",
        "/proc/self/mountinfo": "\n".join([other, *mounts, ""]),
    }
    for name, text in files.items():
        path = tmp_path / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cpus.quota(tmp_path)


@pytest.mark.parametrize(
    ("written", "limit"),
    [
        ("max 100000\n", None),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("100001 100000\n", 2),
        ("250000 100000\n", 3),
        ("1000 1000000\n", 1),
        ("6400000 100000\n", 64),
        ("0 100000", None),
        ("100000 0", None),
        ("-1 100000", None),
        ("100000", None),
        ("", None),
        ("some words here", None),
    ],
)
def test_a_quota_of_version_2_is_rounded_up(
    written: str, limit: int | None, tmp_path: Path
) -> None:
    files = {f"{UNIFIED}/app/cpu.max": written}
    assert quota(tmp_path, "0::/app", [v2()], files) == limit


@pytest.mark.parametrize(
    ("time", "period", "limit"),
    [
        ("-1\n", "100000\n", None),
        ("50000\n", "100000\n", 1),
        ("150000\n", "100000\n", 2),
        ("1000\n", "500\n", 2),
        ("0\n", "100000\n", None),
        ("50000\n", "", None),
        ("", "100000\n", None),
    ],
)
def test_a_quota_of_version_1_limits(
    time: str, period: str, limit: int | None, tmp_path: Path
) -> None:
    own = "9:memory:/elsewhere\n4:cpu,cpuacct:/app\n1:name=systemd:/x"
    assert quota(tmp_path, own, [v1()], old("/app", time, period)) == limit


def test_of_all_groups_around_the_smallest_quota_counts(tmp_path: Path) -> None:
    files = {
        f"{UNIFIED}/pods/cpu.max": "800000 100000",
        f"{UNIFIED}/pods/pod/cpu.max": "200000 100000",
        f"{UNIFIED}/pods/pod/app/cpu.max": "max 100000",
        f"{UNIFIED}/pods/pod/app/below/cpu.max": "100000 100000",  # Not ours.
    }
    assert quota(tmp_path, "0::/pods/pod/app", [v2()], files) == 2
    files = {**old("/pods", "300000"), **old("/pods/pod", "-1"), **old("/pods/pod/app", "700000")}
    assert quota(tmp_path, "4:cpu:/pods/pod/app", [v1()], files) == 3


def test_a_container_with_a_namespace_of_its_own_sees_its_group_as_the_root(tmp_path: Path) -> None:
    files = {f"{UNIFIED}/cpu.max": "150000 100000"}
    assert quota(tmp_path, "0::/", [v2()], files) == 2


def test_a_container_that_is_told_the_hosts_paths_sees_its_group_where_it_is_mounted(
    tmp_path: Path,
) -> None:
    own = "4:cpu,cpuacct:/docker/abc"
    assert quota(tmp_path, own, [v1(root="/docker/abc")], old("", "50000")) == 1
    nested = {**old("", "400000"), **old("/docker/def", "300000")}
    own += "/docker/def"
    assert quota(tmp_path, own, [v1(root="/docker/abc")], nested) == 3


@pytest.mark.parametrize("own", ["/../../other", "/host/path", "/docker/abc (deleted)"])
def test_a_path_that_leads_nowhere_means_the_group_that_is_mounted(
    own: str, tmp_path: Path
) -> None:
    files = {f"{UNIFIED}/cpu.max": "50000 100000", f"{UNIFIED}/other/cpu.max": "9 1"}
    assert quota(tmp_path, f"0::{own}", [v2(root="/docker/xyz")], files) == 1
    assert quota(tmp_path, f"0::{own}", [v2()], files) == 1


def test_a_strangers_group_that_is_mounted_somewhere_does_not_matter(tmp_path: Path) -> None:
    mounts = [v2(root="/pods/other", place="/var/lib/other"), v2()]
    files = {"/var/lib/other/cpu.max": "100000 100000", f"{UNIFIED}/app/cpu.max": "300000 100000"}
    assert quota(tmp_path, "0::/app", mounts, files) == 3


def test_version_1_and_version_2_may_both_be_mounted(tmp_path: Path) -> None:
    own = "4:cpu,cpuacct:/app\n0::/unit"
    unified = "/sys/fs/cgroup/unified"
    mounts = [v1(), v2(place=unified)]
    files = {**old("/app", "400000"), f"{unified}/unit/cpu.max": "200000 100000"}
    assert quota(tmp_path, own, mounts, files) == 2
    del files[f"{unified}/unit/cpu.max"]
    (tmp_path / unified[1:] / "unit/cpu.max").unlink()
    assert quota(tmp_path, own, mounts, files) == 4


def test_other_controllers_say_nothing_about_cpus(tmp_path: Path) -> None:
    files = {**old("/app", "100000")}
    mounts = [v1(controllers="memory"), v1(controllers="cpuacct"), v1(controllers="cpuset")]
    assert quota(tmp_path, "4:memory:/app\n5:cpuset:/app", mounts, files) is None


def test_a_place_may_have_a_space_in_its_name(tmp_path: Path) -> None:
    files = {"/my groups/a b/cpu.max": "200000 100000"}
    assert quota(tmp_path, "0::/a b", [v2(place="/my\\040groups")], files) == 2


@pytest.mark.parametrize(
    ("own", "mounts"),
    [
        ("", []),
        ("0::/app", []),
        ("garbage", ["garbage", "- cgroup2", "a b c d e - cgroup"]),
        (":::::", [v2()]),
        ("0::", [v2()]),
    ],
)
def test_an_unreadable_quota_limits_nothing(own: str, mounts: list[str], tmp_path: Path) -> None:
    assert cpus.quota(tmp_path / "nowhere") is None
    assert quota(tmp_path, own, mounts, {}) is None


def test_a_directory_in_the_place_of_a_file_limits_nothing(tmp_path: Path) -> None:
    (tmp_path / UNIFIED[1:] / "app/cpu.max").mkdir(parents=True)
    assert quota(tmp_path, "0::/app", [v2()], {}) is None


def test_at_least_one_and_at_most_the_affinity() -> None:
    assert 1 <= cpus.usable() <= len(os.sched_getaffinity(0))
