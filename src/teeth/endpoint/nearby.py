"""Where a machine finds an image nearer than at the endpoint: in a cache of its network, or at machines
beside it. Which those are is written into a command when it first leaves for the machine."""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from teeth.errors import UsageError
from teeth_protocol import methods
from teeth_protocol.fields import FieldError
from teeth_protocol.shape import read
from teeth_protocol.wire.standbye import Cached

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# A manifest's address has a part of its own digest in it: that of the image is the same for another manifest.
_IMAGE_PATH = re.compile(r"/images/sha256-[0-9a-f]{64}(/manifest\?v=[0-9a-f]{16})?\Z")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")
_MOST_URLS = 16  # what the wire takes
# A machine goes on to the next when one is full or gone; more would not help it.
_PEERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCache:
    """A caching proxy of the boot door (``http://HOST:PORT``) for the machines of one network."""

    network: Network
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearby:
    """``caches``: where images are asked for before the endpoint. ``peers``: networks whose machines may be
    told of each other; a machine in none of them never is."""

    caches: tuple[ImageCache, ...] = ()
    peers: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sharer:
    """A node that shares: from where, in which network, the images' digests in hex."""

    url: str
    network: Network
    images: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharers:
    """Who shares what now; a value, so that any thread may read the one it has."""

    networks: tuple[Network, ...]
    nodes: Mapping[str, _Sharer] = field(default_factory=dict)

    def heard(self, node_id: str, host: str, params: Mapping[str, Any], result: Any) -> Sharers:
        """A node has done ``cache_images``: what it shares from now on. ``host``: where its session is from.

        An agent can only speak for itself: another address than its session's, which is also what a machine
        behind a translated address shows, is not passed on.
        """
        told = self.gone(node_id)
        network = network_of(host, self.networks)
        try:
            cached = read(Cached, result)
        except FieldError:
            return told
        if network is None or cached.shared_at is None or not _is_at(cached.shared_at, host):
            return told
        digests = {str(one.get("id")): _hex(one) for one in _images(params)}
        images = frozenset(
            digest for one in cached.images if one.cached and (digest := digests.get(one.id)) is not None
        )
        sharer = _Sharer(url=cached.shared_at.rstrip("/"), network=network, images=images)
        return replace(told, nodes={**told.nodes, node_id: sharer})

    def gone(self, node_id: str) -> Sharers:
        """The node's session is over."""
        return replace(self, nodes={key: one for key, one in self.nodes.items() if key != node_id})

    def of(self, digest: str, network: Network, *, but: str) -> list[str]:
        """Where the image of this digest is shared in ``network``, by other nodes than ``but``."""
        return [
            f"{one.url}/images/sha256-{digest}"
            for node_id, one in self.nodes.items()
            if node_id != but and one.network == network and digest in one.images
        ]


Pick = Callable[[Sequence[str], int], list[str]]


def brought_nearer(
    method: str,
    params: Mapping[str, Any],
    *,
    node_id: str,
    host: str,
    nearby: Nearby,
    sharers: Sharers,
    own: str,
    pick: Pick = random.sample,
) -> dict[str, Any]:
    """Params of a task with nearer places for its images; ``own``: the base of the endpoint's own URLs.

    Peers only for images that are verified chunk by chunk, and only where the command names none itself.
    Anything that is not as expected is left as it is: the agent will say what is wrong with it.
    """
    caches = sorted(
        (one for one in nearby.caches if network_of(host, (one.network,)) is not None),
        key=lambda one: one.network.prefixlen,
        reverse=True,
    )
    network = network_of(host, nearby.peers)

    def nearer(image: Any) -> Any:
        if not isinstance(image, Mapping):
            return image
        changed = dict(image)
        if image.get("proxy") is None:
            for cache in caches[:1]:
                _through(changed, own, cache.url)
        digest = _hex(image)
        verified = image.get("manifest") is not None or image.get("chunks") is not None
        if network is not None and digest is not None and verified and "peers" not in image:
            found = sharers.of(digest, network, but=node_id)
            if found:
                changed["peers"] = pick(found, min(_PEERS, len(found)))
        return changed

    if method == methods.PREPARE_IMAGE and "image" in params:
        return {**params, "image": nearer(params["image"])}
    if method == methods.CACHE_IMAGES and isinstance(params.get("images"), list):
        return {**params, "images": [nearer(image) for image in params["images"]]}
    return dict(params)


def network_of(host: str, networks: Sequence[Network]) -> Network | None:
    """The narrowest of the networks that this address is in."""
    address = _address(host)
    around = [] if address is None else [one for one in networks if address in one]
    return max(around, key=lambda one: one.prefixlen, default=None)


def parse_network(text: str) -> Network:
    """Raises UsageError."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no network: {error}", hint="ADDRESS/LENGTH, as in 10.1.0.0/24"
        ) from None


def parse_cache(text: str) -> ImageCache:
    """``NETWORK=URL``. Raises UsageError."""
    network, equals, url = text.partition("=")
    if not equals or not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+/?", url):
        raise UsageError(
            f"{text!r} is no cache of a network", hint="NETWORK=URL, as in 10.1.0.0/24=http://10.1.0.2:8080"
        )
    return ImageCache(network=parse_network(network), url=url.rstrip("/"))


def _through(image: dict[str, Any], own: str, cache: str) -> None:
    """The endpoint's own URLs by the names of contents, through the cache first."""
    manifest = image.get("manifest")
    if isinstance(manifest, Mapping) and "urls" in manifest:
        image["manifest"] = {**manifest, "urls": _first(manifest["urls"], own, cache)}
    if "urls" in image:
        image["urls"] = _first(image["urls"], own, cache)


def _first(urls: Any, own: str, cache: str) -> Any:
    if not isinstance(urls, list):
        return urls
    there = [
        cache + url.removeprefix(own)
        for url in urls
        if isinstance(url, str) and url.startswith(own) and _IMAGE_PATH.match(url.removeprefix(own))
    ]
    wanted = [url for url in there if url not in urls]
    return [*wanted, *urls] if len(wanted) + len(urls) <= _MOST_URLS else urls


def _images(params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    images = params.get("images")
    return [one for one in images if isinstance(one, Mapping)] if isinstance(images, list) else []


def _hex(image: Mapping[str, Any]) -> str | None:
    match = _DIGEST.match(str(image.get("digest")).lower())
    return match[1] if match else None


def _is_at(url: str, host: str) -> bool:
    try:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.path not in ("", "/") or parts.query or not parts.port:
            return False
    except ValueError:
        return False
    address = _address(parts.hostname or "")
    return address is not None and address == _address(host)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4 address that is written as IPv6 is an IPv4 address; a scope belongs to our side."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
