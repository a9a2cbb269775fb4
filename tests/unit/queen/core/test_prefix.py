"""Prompts that begin alike share links, and the memory names the worker that served the longest shared part."""

from daemons.contracts.inference import Generation, Message
from daemons.queen.core.prefix import PrefixMemory, prefix_chain


def _chat(*texts: str) -> Generation:
    return Generation(messages=[Message(role="user", content=text) for text in texts])


def test_a_continued_conversation_shares_all_earlier_links() -> None:
    """Each message adds one link and changes none before it."""
    first, second = prefix_chain(_chat("a", "b")), prefix_chain(_chat("a", "b", "c"))
    assert len(second) == 3
    assert second[:2] == first


def test_a_change_in_the_middle_changes_every_later_link() -> None:
    """Links are chained: the same message after another beginning is another link."""
    assert prefix_chain(_chat("a", "x", "c"))[2] != prefix_chain(_chat("a", "b", "c"))[2]


def test_plain_prompts_are_cut_into_stretches() -> None:
    """Two prompts with the same first 256 characters share one link."""
    first = prefix_chain(Generation(prompt="x" * 256 + "one"))
    second = prefix_chain(Generation(prompt="x" * 256 + "two"))
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert len(prefix_chain(Generation(prompt="y" * 10**6))) == 64


def test_warmth_is_the_longest_link_that_the_worker_served_last() -> None:
    """A worker that served only the beginning is less warm than one that served more."""
    memory = PrefixMemory()
    chain = prefix_chain(_chat("a", "b", "c"))
    memory.record(chain, "w-1")
    memory.record(chain[:1], "w-2")
    assert memory.warmth(chain, "w-1") == 3
    assert memory.warmth(chain, "w-2") == 1
    assert memory.warmth(chain, "w-3") == 0


def test_the_memory_is_bounded() -> None:
    """Old links are forgotten, so that the queen does not grow with every prompt."""
    memory = PrefixMemory()
    old = prefix_chain(_chat("old"))
    memory.record(old, "w-1")
    for number in range(200):
        memory.record(prefix_chain(Generation(prompt=f"{number} " * 8192)), "w-2")
    assert memory.warmth(old, "w-1") == 0
