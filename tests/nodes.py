"""A Ray cluster on this machine: a head without CPUs, and nodes of one CPU each."""

from __future__ import annotations

import socket


def find_ports() -> dict[str, int]:
    """Returns free ports for a node's agents: told beforehand, a node does not wait for them, long on a busy machine."""
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(("metrics_agent_port", "runtime_env_agent_port"), ports, strict=True))


def open_cluster(**options):
    """Returns a cluster of two nodes and a head; options: of all three."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False} | find_ports() | options
    found = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        add_node(found, **options)
    return found


def add_node(cluster, **options):
    """Returns a node of one CPU more."""
    return cluster.add_node(num_cpus=1, **find_ports(), **options)
