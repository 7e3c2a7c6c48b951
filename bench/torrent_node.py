"""One BitTorrent node of bench/distribute.py, for the distribution's own Python (package python3-libtorrent).

torrent_node.py ADDRESS TORRENT FOLDER seed|leech PEER...   Prints a line of JSON when it has the whole, goes
on serving until its standard input ends, then prints another with its memory.
"""

import json
import sys
import threading
import time
from pathlib import Path

import libtorrent as lt

PORT = 6881
SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "in_enc_policy": 2,  # none, as beside plain HTTP
    "out_enc_policy": 2,
    "unchoke_slots_limit": 8,
    "min_reconnect_time": 1,
    "connection_speed": 200,
    "mixed_mode_algorithm": 0,
    "alert_mask": 0,
}


def main() -> None:
    address, torrent, folder, role, *peers = sys.argv[1:]
    session = lt.session({**SETTINGS, "listen_interfaces": f"{address}:{PORT}"})
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = folder
    if role == "seed":
        params.flags |= lt.torrent_flags.seed_mode
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handle = session.add_torrent(params)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    for peer in peers:
        handle.connect_peer((peer, PORT))
    tick = threading.Event()
    while not handle.status().is_seeding:
        tick.wait(0.05)
    print(json.dumps({"seconds": time.monotonic() - began}), flush=True)
    sys.stdin.read()
    with Path("/proc/self/status").open() as status:
        memory = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    print(json.dumps({"peak_rss_bytes": memory, "sent": handle.status().total_payload_upload}), flush=True)


main()
