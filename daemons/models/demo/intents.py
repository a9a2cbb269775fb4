"""What the demo model is taught to answer: pure data.

An intent pairs many ways of asking with exactly one answer. Phrasings are templates of `phrases` (`[a|b]` is a choice).
Every command inside backquotes in an answer must start with an entry of `COMMANDS` and use only flags in `FLAGS`;
a test holds that, so a change of the command grammar shows here.
"""

from daemons.models.demo.intents_fleet import FLEET_INTENTS
from daemons.models.demo.intents_infer import INFER_INTENTS
from daemons.models.demo.intents_models import MODEL_INTENTS
from daemons.models.demo.intents_service import SERVICE_INTENTS
from daemons.models.demo.intents_talk import TALK_INTENTS
from daemons.models.demo.phrases import Intent

COMMANDS: tuple[str, ...] = (
    "rbee",
    "rbee tui",
    "rbee infer",
    "rbee chat",
    "rbee status",
    "rbee devices",
    "rbee ps",
    "rbee up",
    "rbee setup",
    "rbee setup add-node",
    "rbee setup list-nodes",
    "rbee setup update-node",
    "rbee setup remove-node",
    "rbee setup install",
    "rbee setup check",
    "rbee node cordon",
    "rbee node uncordon",
    "rbee node drain",
    "rbee workers list",
    "rbee workers health",
    "rbee workers start",
    "rbee workers shutdown",
    "rbee models pull",
    "rbee models list",
    "rbee models show",
    "rbee models verify",
    "rbee models rm",
    "rbee models prune",
    "rbee models import",
    "rbee models pin",
    "rbee models unpin",
    "rbee models backup",
    "rbee models restore",
    "rbee fit",
    "rbee tasks list",
    "rbee tasks show",
    "rbee tasks cancel",
    "rbee logs",
    "rbee why",
    "rbee history",
    "rbee usage",
    "rbee sql",
    "rbee audit",
    "rbee keys create",
    "rbee keys list",
    "rbee keys revoke",
    "rbee queen start",
    "rbee queen stop",
    "rbee queen status",
    "rbee queen service",
    "rbee hive start",
    "rbee hive stop",
    "rbee hive status",
    "rbee hive restart",
    "rbee config show",
    "rbee install",
    "rbee doctor",
)
"""Every command of the grammar that an answer may name."""

FLAGS: tuple[str, ...] = (
    "--help",
    "--version",
    "--json",
    "--name",
    "--ssh-host",
    "--ssh-port",
    "--ssh-user",
    "--ssh-key",
    "--uninstall",
    "--node",
    "--upgrade",
    "--plan",
    "--model",
    "--prompt",
    "--backend",
    "--device",
    "--max-tokens",
    "--temperature",
    "--seed",
    "--stop",
    "--system",
    "--ctx",
    "--json-schema",
    "--timeout",
    "--ephemeral",
    "--id",
    "--force",
    "--worker",
    "--follow",
    "--demo",
    "--web",
    "--read-only",
)
"""Every flag that an answer may name."""

INTENTS: tuple[Intent, ...] = FLEET_INTENTS + INFER_INTENTS + MODEL_INTENTS + SERVICE_INTENTS + TALK_INTENTS

FALLBACK = (
    "I do not know. I am a tiny demo model and only know rbee's commands and stories about bees. "
    "Try `rbee --help`, or load a larger model."
)
"""The answer to everything else."""

TASK_FRAMES: tuple[str, ...] = (
    "How do I {task}?",
    "How do I {task}?",
    "how do I {task}",
    "how do i {task}?",
    "How can I {task}?",
    "how can i {task}",
    "How to {task}?",
    "how to {task}",
    "{task}",
    "[I want|I need|I would like|I'd like] to {task}[|.]",
    "[please |]tell me how to {task}[|.]",
    "What is the command to {task}?",
    "what's the command to {task}",
    "[which|what] command [do I use|should I use|lets me|must I type] to {task}?",
    "Can I {task}?",
    "can you {task}?",
    "is it possible to {task}?",
    "Is there a [way|command] to {task}?",
    "[please|pls] {task}[|.]",
    "[what do I do|what must I do|what should I do|what do I type] to {task}?",
    "[show|explain to|teach] me how to {task}[|.]",
    "[How|Where] [would|could|should|can] [I|one|you|we] {task}?",
    "help me {task}[|.]",
    "I am trying to {task}, [how|what do I do]?",
    "[hi|hello|hey], how [do|can] I {task}?",
    "[what's|what is] the [best|right|correct|easiest] way to {task}?",
    "how [does one|do we|do you] {task}?",
    "[let's|let me|I'm going to|now I want to] {task}",
    "rbee: {task}",
    "How do I {task} with rbee?",
    "how can rbee {task}?",
    "does rbee {task}?",
    "[I don't know how to|I forgot how to|I can't figure out how to] {task}",
    "[command|instructions|steps] to {task}",
)
"""Ways of turning a verb phrase into a question."""

STORY_REQUESTS: tuple[str, ...] = (
    "[Tell|tell|Write|write|Give|give] me a [|short |little |nice |good ]story[| about bees| about a bee| about a "
    "hive| about a queen bee][|.|, please.]",
    "[Write|write|Make up|Invent|tell] a [|short |little |nice ]story[| about bees| about a bee| about a beehive| "
    "about the queen bee| about honey][|.]",
    "[Can|Could] you [tell|write] [me |]a [|short |little ]story[| about bees| about a bee]?",
    "a [short |]story[| about bees], please",
    "story",
    "[I want|I would like] [to hear |]a [|short ]story[| about bees]",
    "tell me [something about a bee|something nice|a bedtime story|a tale about bees]",
    "[once more|another story|one more story|another one][|, please][|.]",
    "[Write|Tell me] about a [brave|little|young|lost|clever] bee[|.]",
)
"""Ways of asking for a story."""
