"""The whole fleet at one moment, and the devices of its nodes."""

from dataclasses import dataclass

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import FleetSnapshot, ModelList, ModelRow, NodeList, NodeRow
from daemons.contracts.routes import FLEET, MODEL_LIST, NODE_LIST
from daemons.contracts.telemetry import Device
from rbee_tui.keeper.session import QueenSession


@dataclass(frozen=True, slots=True)
class NodeDevice:
    """A device and the node that it belongs to."""

    node: str
    device: Device


async def fleet(session: QueenSession) -> FleetSnapshot:
    """Nodes, workers, models, tasks and the queue, as the queen sees them now."""
    return await session.get(FLEET, FleetSnapshot)


async def nodes(session: QueenSession) -> list[NodeRow]:
    """Every node the queen knows."""
    return (await session.get(NODE_LIST, NodeList)).nodes


def devices_of(rows: list[NodeRow], node: str | None = None) -> list[NodeDevice]:
    """The devices of all these nodes, or of the one called `node`, in their order. Raises RbeeError(NODE_NOT_FOUND)."""
    names = [row.name for row in rows]
    if node is not None and node not in names:
        raise RbeeError(
            Code.NODE_NOT_FOUND,
            f"no node {node[:80]!a}; there are {', '.join(names) or 'none'}",
            details={"nodes": names},
        )
    return [NodeDevice(row.name, device) for row in rows if node in (None, row.name) for device in row.devices]


async def models(session: QueenSession) -> list[ModelRow]:
    """The models of all nodes."""
    return (await session.get(MODEL_LIST, ModelList)).models
