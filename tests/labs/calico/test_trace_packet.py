"""`./hardway trace packet` where a tunnel is between the workers."""

from lab.workload import Workload
from labs.dev.test_trace_packet import hops, test_a_packet_is_followed_to_the_endpoint_and_back, trace

__all__ = ["test_a_packet_is_followed_to_the_endpoint_and_back"]


def test_the_packet_and_the_one_that_carries_it_are_both_shown(workload: Workload) -> None:
    """A tunnel that the trace does not see: the packet would leave by one machine and appear in another."""
    client, found = trace(workload, code=0)
    for node in (client.node, workload.alone.node):
        addresses = [hop["evidence"][0] for hop in hops(found, "request", node) if "VXLAN" in hop["what"]]
        assert [line.partition(" > ")[2].partition(":")[2] for line in addresses] == ["4789 UDP"], found
        assert any(hop["interface"] == "vxlan.calico" for hop in hops(found, "answer", node)), found
