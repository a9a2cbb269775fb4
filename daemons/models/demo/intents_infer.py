"""Questions about running prompts and chats; the format is explained in `intents`."""

from daemons.models.demo.phrases import Intent

_MODEL = "[model|llm|language model|gguf model]"

INFER_INTENTS: tuple[Intent, ...] = (
    Intent(
        "infer",
        'To run a prompt, use `rbee infer --model <model> --prompt "<text>"`. The tokens stream to your terminal.',
        (
            "[run|send|execute|submit|start|do] [a prompt|inference|an inference|a request|a completion]",
            "[generate|create|make|produce|write|get] [text|some text|tokens|a completion|an answer]",
            f"[ask|prompt|query|use|run|try|call] [a|the|my|some] {_MODEL}",
            "get [an answer|text|tokens] from a model",
        ),
        ("which command runs a prompt?", "infer", "what does rbee infer do?", "run inference"),
    ),
    Intent(
        "infer-stdin",
        "Use a dash as the prompt: `rbee infer --model <model> -` reads it from standard input.",
        (
            "[read|take|get] [the|a] prompt from [stdin|standard input|a pipe|a file]",
            "[pipe|feed|send] [a file|text|a text file] [into|to] [rbee|a model]",
            "use [a file|stdin|a pipe] as [the|a] prompt",
        ),
        ("can the prompt come from [a file|stdin|a pipe]?", "prompt from [stdin|a file]"),
    ),
    Intent(
        "infer-node",
        "Name the node: `rbee infer --model <model> --node <name>`. Without it the queen chooses the best place.",
        (
            "[choose|pick|select|set|force] the [node|machine|computer|server] [for a request|for a prompt|that "
            "answers|to use|that runs the model]",
            "[run|send] [a prompt|a request|a model|inference] [on|to] a [certain|specific|chosen|particular|"
            "given] [node|machine|computer|server]",
        ),
        ("can I choose [the node|where a model runs|the machine]?", "where does a request run?"),
    ),
    Intent(
        "infer-device",
        "Name backend and device: `rbee infer --model <model> --backend <backend> --device <device>`. An explicit "
        "choice is never changed.",
        (
            "[choose|pick|select|set|force|use] [the backend|a backend|a device|the device|a certain gpu|the "
            "second gpu|cuda|metal|the cpu]",
            "run [a model|a prompt|inference] on [the cpu|cuda|metal|the second gpu|a certain gpu|a certain device|"
            "only the cpu]",
        ),
        ("can I choose the [gpu|device|backend]?", "can a model run on the cpu?"),
    ),
    Intent(
        "max-tokens",
        "Set the limit: `rbee infer --model <model> --max-tokens <number>`. The default is 100.",
        (
            "[limit|set|cap|change|increase|reduce] the [length|number of tokens|length of an answer|answer length|"
            "maximum tokens]",
            "[get|allow|make] [longer|shorter] [answers|texts|output]",
            "[stop|prevent] [an answer|the text] from [being cut|ending] too [early|soon]",
        ),
        (
            "why [is|was] [the|my] answer cut off?",
            "why does the [text|answer] [stop|end] after 100 tokens?",
            "max tokens",
            "the answer is too [short|long]",
        ),
    ),
    Intent(
        "temperature",
        "Set it per request: `rbee infer --model <model> --temperature <number>`. 0 always takes the likeliest "
        "token; the default is 0.7.",
        (
            "[set|change|lower|raise|use|choose] the temperature",
            "[get|make] [more|less] [creative|random|varied|predictable] [answers|text|output]",
        ),
        ("what does temperature do?", "what is the default temperature?", "temperature"),
    ),
    Intent(
        "seed",
        "Fix the seed: `rbee infer --model <model> --seed <number>`. The same seed gives the same text.",
        (
            "[set|fix|use|choose] [the|a] [seed|random seed]",
            "[get|have] the same [text|answer|output|result] [twice|again|every time|each time]",
            "make [answers|output|results|the output] [repeatable|reproducible|deterministic]",
        ),
        ("why is every answer different?", "seed", "what does the seed do?"),
    ),
    Intent(
        "stop-strings",
        "Give a stop string: `rbee infer --model <model> --stop <text>`. The text ends before it.",
        (
            "[set|use|give|add|define] [a stop string|stop strings|a stop word|a stop sequence]",
            "[end|stop] [the text|generation|the output|an answer] at a [certain |given |]word",
        ),
        ("what is a stop string?", "stop string"),
    ),
    Intent(
        "system-prompt",
        "Give it with a flag: `rbee infer --model <model> --system <text>`. It is put before your prompt.",
        (
            "[set|give|use|add|write|change] [a|the] [system prompt|system message]",
            "tell [the|a] model how to [behave|answer]",
        ),
        ("what is a system prompt?", "system prompt", "system message"),
    ),
    Intent(
        "context",
        "Set it when the model starts: `rbee infer --model <model> --ctx <tokens>`. rbee says so when memory "
        "allows less.",
        (
            "[set|change|raise|increase|reduce|choose] the [context|context size|context length|context window]",
            "use [a longer|a larger|a bigger|a smaller|more] context",
            "send [very |]long prompts",
        ),
        ("how [long|large|big] is the context?", "my prompt is too long", "context size", "context"),
    ),
    Intent(
        "json-schema",
        "Give a schema: `rbee infer --model <model> --json-schema <file>`. The answer then always fits the schema.",
        (
            "[get|force|make|produce] [json|valid json|structured output|structured answers]",
            "[use|give|set] a json schema",
            "make [the|a] model answer in json",
        ),
        ("can [a model|rbee] answer in json?", "json schema", "structured output"),
    ),
    Intent(
        "json-output",
        "Add `--json` to the command, for example `rbee workers list --json`. Every listing can do it.",
        (
            "[get|print|show|have] [a list|lists|listings|output of a command|the output] as json",
            "use rbee in [a script|scripts|a program]",
            "[parse|read] the output of [rbee|a command] in a script",
        ),
        ("is there machine readable output?", "json output", "can commands print json?"),
    ),
    Intent(
        "ephemeral",
        "Use `rbee infer --model <model> --ephemeral`. What was started for the request is stopped again afterwards.",
        (
            "[leave|keep] [nothing|no process|no daemon] [running|behind]",
            "run [a prompt|a request] [and stop everything afterwards|without leaving anything running|once]",
            "use [ephemeral mode|the ephemeral mode]",
        ),
        ("what [is|does] ephemeral[ mode| do|]?", "ephemeral", "what does the ephemeral flag do?"),
    ),
    Intent(
        "timeout",
        "Set a limit: `rbee infer --model <model> --timeout <seconds>`. The request is cancelled when it takes longer.",
        (
            "[set|use|give|change] [a|the] [timeout|time limit|deadline]",
            "[limit|cap] the time of a [request|prompt|task]",
            "give up after [some seconds|a while|a minute]",
        ),
        ("what happens when a request takes too long?", "timeout", "can a request have a deadline?"),
    ),
    Intent(
        "chat",
        "To have a conversation, run `rbee chat --model <model>`. It remembers what was said until you leave.",
        (
            "[chat|talk|speak|converse|have a conversation|have a dialogue] [with a model|with rbee|with an llm|"
            "with the demo model|]",
            "[start|open|begin|have] a [chat|conversation|dialogue]",
            "[ask|send] [more than one question|several questions|follow-up questions]",
        ),
        ("is there a chat?", "rbee chat", "which command opens a chat?", "can I [chat|talk] with a model?"),
    ),
)
