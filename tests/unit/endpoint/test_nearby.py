"""Which nearer places are written into a command, and for whom."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import pytest

from teeth.endpoint.nearby import ImageCache, Nearby, Sharers, brought_nearer, parse_cache, parse_network
from teeth.endpoint.neighbourhood import host_of
from teeth.errors import UsageError

RACK1, RACK2 = ipaddress.ip_network("10.1.0.0/24"), ipaddress.ip_network("10.2.0.0/24")
OWN = "http://10.0.0.1:8080"
HEX, OTHER, VERSION = "a" * 64, "b" * 64, "e" * 16
CACHE, PREPARE = "standbye.cache_images", "standbye.prepare_image"


def image(digest: str = HEX, **members: Any) -> dict[str, Any]:
    return {
        "id": f"i-{digest[0]}",
        "urls": [f"{OWN}/images/sha256-{digest}"],
        "size": 5,
        "digest": f"sha256:{digest}",
        "format": "raw",
        "manifest": {
            "urls": [f"{OWN}/images/sha256-{digest}/manifest?v={'e' * 16}"],
            "size": 9,
            "digest": "sha256:c",
        },
        **members,
    }


def cached(url: str | None, *digests: str, failed: Sequence[str] = ()) -> dict[str, Any]:
    images = [{"id": f"i-{digest[0]}", "cached": digest not in failed} for digest in (*digests, *failed)]
    return {"images": images, "place": "memory", "budget": 10, "shared_at": url}


def sharing(*addresses: str, digests: Sequence[str] = (HEX,)) -> Sharers:
    """A node for each address, named by it, that shares the images."""
    sharers = Sharers(networks=(RACK1, RACK2))
    params = {"images": [image(digest) for digest in digests]}
    for address in addresses:
        result = cached(f"http://{address}:9000", *digests)
        sharers = sharers.heard(address, address, params, result)
    return sharers


def peers(sharers: Sharers, host: str, one: Any = None, *, node_id: str = "me", **nearby: Any) -> Any:
    """The peers that a prepare_image for a machine at ``host`` is given."""
    said = brought_nearer(
        PREPARE, {"image": image() if one is None else one}, node_id=node_id, host=host,
        nearby=Nearby(**{"peers": (RACK1, RACK2), **nearby}), sharers=sharers, own=OWN,
        pick=lambda found, count: sorted(found)[:count],
    )  # fmt: skip
    return said["image"].get("peers")


def test_machines_of_one_network_are_told_of_each_other_and_of_nobody_elsewhere() -> None:
    sharers = sharing("10.1.0.5", "10.1.0.6", "10.2.0.5")
    path = f"/images/sha256-{HEX}"
    assert peers(sharers, "10.1.0.9") == [f"http://10.1.0.5:9000{path}", f"http://10.1.0.6:9000{path}"]
    assert peers(sharers, "10.2.0.9") == [f"http://10.2.0.5:9000{path}"]
    assert peers(sharers, "10.3.0.9") is None
    assert peers(sharers, "nonsense") is None
    assert peers(sharers, "::ffff:10.2.0.9") == [f"http://10.2.0.5:9000{path}"]
    assert peers(sharers, "10.1.0.9", peers=()) is None  # nobody asked for it


def test_a_machine_is_not_sent_to_itself_and_to_four_at_most() -> None:
    sharers = sharing(*(f"10.1.0.{number}" for number in range(1, 9)))
    assert peers(sharing("10.1.0.5"), "10.1.0.5", node_id="10.1.0.5") is None
    assert len(peers(sharers, "10.1.0.99")) == 4


def test_only_for_images_that_are_verified_chunk_by_chunk_and_where_the_command_names_no_peers() -> None:
    sharers = sharing("10.1.0.5")
    without = image()
    del without["manifest"]
    assert peers(sharers, "10.1.0.9", without) is None
    assert peers(sharers, "10.1.0.9", {**without, "chunks": {"size": 4096, "digests": ["0" * 64]}})
    assert peers(sharers, "10.1.0.9", image(peers=["http://10.1.0.77:1/x"])) == ["http://10.1.0.77:1/x"]
    assert peers(sharers, "10.1.0.9", image(OTHER)) is None
    assert peers(sharers, "10.1.0.9", image(digest="sha512:" + "a" * 128)) is None


def test_what_was_not_cached_is_not_shared_and_a_later_list_replaces_the_earlier() -> None:
    params = {"images": [image(), image(OTHER)]}
    url = "http://10.1.0.5:9000"
    sharers = Sharers(networks=(RACK1,)).heard("n", "10.1.0.5", params, cached(url, HEX, failed=[OTHER]))
    assert sharers.nodes["n"].images == {HEX}
    sharers = sharers.heard("n", "10.1.0.5", params, cached(url, OTHER))
    assert sharers.nodes["n"].images == {OTHER}
    assert sharers.heard("n", "10.1.0.5", params, cached(None, OTHER)).nodes == {}
    assert sharers.gone("n").nodes == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://10.1.0.6:9000", "http://10.0.0.1:22", "http://localhost:9000", "https://10.1.0.5:9000",
        "http://10.1.0.5", "http://10.1.0.5:9000/else", "http://10.1.0.5:9000?x=", "http://10.1.0.5:0",
        "http://10.1.0.5:99999", "http://[10.1.0.5:1", "http://evil@10.1.0.6:9000",
    ],
)  # fmt: skip
def test_an_agent_speaks_only_for_its_own_address(url: str) -> None:
    params = {"images": [image()]}
    assert Sharers(networks=(RACK1,)).heard("n", "10.1.0.5", params, cached(url, HEX)).nodes == {}


@pytest.mark.parametrize("result", [None, [], {}, {"images": 3}, {"shared_at": 4}])
def test_a_result_that_is_none_shares_nothing(result: Any) -> None:
    assert Sharers(networks=(RACK1,)).heard("n", "10.1.0.5", {}, result).nodes == {}


# --- caches


def through(host: str, *caches: tuple[str, str], **members: Any) -> dict[str, Any]:
    nearby = Nearby(caches=tuple(ImageCache(network=parse_network(net), url=url) for net, url in caches))
    said = brought_nearer(
        CACHE, {"images": [image(**members)]}, node_id="me", host=host, nearby=nearby,
        sharers=Sharers(networks=()), own=OWN,
    )  # fmt: skip
    found: dict[str, Any] = said["images"][0]
    return found


def test_the_cache_of_the_narrowest_network_is_asked_before_the_endpoint() -> None:
    caches = (("0.0.0.0/0", "http://front"), ("10.1.0.0/24", "http://10.1.0.2:80"))
    path = f"/images/sha256-{HEX}"
    near = through("10.1.0.9", *caches)
    assert near["urls"] == [f"http://10.1.0.2:80{path}", f"{OWN}{path}"]
    assert near["manifest"]["urls"] == [
        f"http://10.1.0.2:80{path}/manifest?v={'e' * 16}",
        f"{OWN}{path}/manifest?v={'e' * 16}",
    ]
    assert through("10.9.0.9", *caches)["urls"] == [f"http://front{path}", f"{OWN}{path}"]
    assert through("10.9.0.9", caches[1])["urls"] == [f"{OWN}{path}"]


def test_only_the_endpoints_own_urls_that_name_their_content_go_through_a_cache() -> None:
    everywhere = ("0.0.0.0/0", "http://front")
    for urls in (
        [f"http://elsewhere/images/sha256-{HEX}"], [f"{OWN}/images/debian"], [f"{OWN}/boot/ipxe"],
        [f"{OWN}/images/sha256-{HEX}?token=1"], [f"http://front/images/sha256-{HEX}"],
    ):  # fmt: skip
        assert through("10.1.0.9", everywhere, urls=urls)["urls"] == urls
    assert through("10.1.0.9", everywhere, proxy="http://proxy:1")["urls"] == image()["urls"]
    many = [*image()["urls"], *(f"http://mirror{number}/x" for number in range(15))]
    assert through("10.1.0.9", everywhere, urls=many)["urls"] == many  # sixteen is what the wire takes


@pytest.mark.parametrize(
    ("method", "params"),
    [
        (PREPARE, {}), (PREPARE, {"image": 3}), (PREPARE, {"image": {}}), (CACHE, {"images": {"a": 1}}),
        (CACHE, {"images": [None, 4, {"urls": "x", "manifest": [], "digest": 7}]}),
        ("standbye.run_image", {"image": image()}), (PREPARE, {"image": {"urls": [4, None]}}),
    ],
)  # fmt: skip
def test_what_is_not_as_expected_stays_as_it_is(method: str, params: dict[str, Any]) -> None:
    nearby = Nearby(caches=(parse_cache("0.0.0.0/0=http://front"),), peers=(RACK1,))
    said = brought_nearer(
        method, params, node_id="me", host="10.1.0.9", nearby=nearby, sharers=sharing("10.1.0.5"), own=OWN
    )
    assert said == params


# --- the command line's words


def test_networks_and_caches_as_an_operator_writes_them() -> None:
    assert parse_network("10.1.0.0/24") == RACK1
    assert parse_cache("fd00::/64=http://[fd00::2]:8080/") == ImageCache(
        network=ipaddress.ip_network("fd00::/64"), url="http://[fd00::2]:8080"
    )


@pytest.mark.parametrize(
    "text",
    [
        "10.1.0.0/24", "10.1.0.5/24=http://x", "=http://x", "10.1.0.0/24=ftp://x", "10.1.0.0/24=http://x/path",
        "10.1.0.0/24=http://x?y", "10.1.0.0/24=http://a b", "10.1.0.0/24=",
    ],
)  # fmt: skip
def test_what_is_no_cache_of_a_network_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no"):
        parse_cache(text)


@pytest.mark.parametrize(
    ("address", "host"),
    [("10.0.0.5:1", "10.0.0.5"), ("[fd00::1]:1", "fd00::1"), ("[fe80::1%eth0]:1", "fe80::1%eth0")],
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host
