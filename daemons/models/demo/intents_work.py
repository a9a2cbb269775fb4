"""Questions about inference, models, tasks, logs, keys and settings; the format is explained in `intents`."""

from daemons.models.demo.phrases import Intent

_MODEL = "[model|llm|language model|gguf model]"

WORK_INTENTS: tuple[Intent, ...] = (
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
            "[choose|pick|select|set|force] the [node|machine|computer|server] [for a request|for a prompt|that answers|to use|that runs the model]",
            "[run|send] [a prompt|a request|a model|inference] [on|to] a [certain|specific|chosen|particular|given] [node|machine|computer|server]",
        ),
        ("can I choose [the node|where a model runs|the machine]?", "where does a request run?"),
    ),
    Intent(
        "infer-device",
        "Name backend and device: `rbee infer --model <model> --backend <backend> --device <device>`. An explicit choice is never changed.",
        (
            "[choose|pick|select|set|force|use] [the backend|a backend|a device|the device|a certain gpu|the second gpu|cuda|metal|the cpu]",
            "run [a model|a prompt|inference] on [the cpu|cuda|metal|the second gpu|a certain gpu|a certain device|only the cpu]",
        ),
        ("can I choose the [gpu|device|backend]?", "can a model run on the cpu?"),
    ),
    Intent(
        "max-tokens",
        "Set the limit: `rbee infer --model <model> --max-tokens <number>`. The default is 100.",
        (
            "[limit|set|cap|change|increase|reduce] the [length|number of tokens|length of an answer|answer length|maximum tokens]",
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
        "Set it per request: `rbee infer --model <model> --temperature <number>`. 0 always takes the likeliest token; the default is 0.7.",
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
        "Set it when the model starts: `rbee infer --model <model> --ctx <tokens>`. rbee says so when memory allows less.",
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
            "[chat|talk|speak|converse|have a conversation|have a dialogue] [with a model|with rbee|with an llm|with the demo model|]",
            "[start|open|begin|have] a [chat|conversation|dialogue]",
            "[ask|send] [more than one question|several questions|follow-up questions]",
        ),
        ("is there a chat?", "rbee chat", "which command opens a chat?", "can I [chat|talk] with a model?"),
    ),
    Intent(
        "models-pull",
        "To download a model, run `rbee models pull hf:<org>/<repo>`. When it is cut, run it again and it goes on.",
        (
            f"[download|pull|fetch|get|install|obtain] [a|another|a new|my first|some] {_MODEL}",
            f"[download|pull|fetch|get] {_MODEL}s [from|off] [hugging face|the hub|the internet]",
            "add a [new |]model [to the catalog|from hugging face|]",
        ),
        (
            "where do models come from?",
            "models pull",
            f"which command downloads a {_MODEL}?",
            "can I use models from hugging face?",
            "hugging face",
            "download model",
        ),
    ),
    Intent(
        "pull-resume",
        "Run the same `rbee models pull` again. It keeps what is there and goes on where it stopped.",
        ("[resume|continue|restart|go on with|finish] [a|my|the] [broken|cut|stopped|interrupted|failed|] download",),
        (
            "my download [broke|stopped|failed|was interrupted]",
            "is [a|my] [broken|cut|interrupted] download lost?",
            "resume download",
        ),
    ),
    Intent(
        "models-list",
        "To see your models, run `rbee models list`. It shows reference, size and the nodes that hold each one.",
        (
            "[list|see|show|view|display|get|print] [the|my|all|all the|my downloaded|the installed] models",
            "[see|find out|know] which models [are downloaded|I have|are on disk|are in the catalog|are available]",
            "[see|show|open|view] the [catalog|model catalog|list of models]",
        ),
        (
            "[which|what] models [do I have|are downloaded|are there|are available|are on disk|can I use]?",
            "how many models do I have?",
            "models list",
            "show me [my|the|all] models",
        ),
    ),
    Intent(
        "models-show",
        "To see one model, run `rbee models show <model>`. It prints size, quantisation, context and where it is stored.",
        (
            "[see|show|get|view|read] [the details|the size|details|information|more|the quantisation|the context length] [of|about] [a|one|my] model",
            "[find out|see] [where a model is stored|how big a model is|how large a model is]",
            "inspect [a|one] model",
        ),
        ("how [big|large] is a model?", "where is a model stored?", "models show", "where are models stored?"),
    ),
    Intent(
        "models-verify",
        "To verify a model, run `rbee models verify <model>`. It reads the file again and compares the checksum.",
        (
            "[verify|validate] [a|my|the] [model|model file|download]",
            "[check|test] [the checksum|the hash|the integrity|a model file]",
            "[find out|see|know|check] [if|whether] a [model|model file|download] is [damaged|broken|corrupt|complete|intact]",
        ),
        ("is my [model|download|model file] [damaged|corrupt|complete|broken]?", "models verify", "checksum"),
    ),
    Intent(
        "models-rm",
        "To delete a model, run `rbee models rm <model>`. A model in use is kept unless you add `--force`.",
        (
            "[delete|remove|erase|throw away|get rid of|drop] [a|my|an old|one|the] [model|model file|downloaded model|llm]",
            "delete a model from [disk|the disk|the catalog|a node]",
        ),
        ("which command deletes a model?", "models rm", "delete model", "I no longer need a model"),
    ),
    Intent(
        "models-prune",
        "To free disk space, run `rbee models prune --plan` and then without the flag. It removes models that nothing uses.",
        (
            "[free|get|save|win] [disk|disk space|space on the disk|more disk space|some space]",
            "[delete|remove|clean up|clear] [unused|old|all unused] models",
            "[clean|clean up|empty] the [disk|model folder]",
        ),
        ("[my|the] disk is full", "disk full", "models prune", "models take too much space", "what does prune do?"),
    ),
    Intent(
        "models-import",
        "To import a model, run `rbee models import <file>`. A folder works too.",
        (
            "[import|use|add|load|bring in] [a|my|an own|a local|my own] [gguf file|model file|local model|gguf|file from disk|folder of models]",
            "use a model [that is already on disk|from a folder|from my disk|from a usb stick]",
        ),
        (
            "I [have|downloaded] a gguf file[| already]",
            "models import",
            "can rbee use my [own|local] [model|gguf] files?",
            "import",
        ),
    ),
    Intent(
        "models-pin",
        "To keep a model loaded, run `rbee models pin <model>`. A pinned model is never unloaded to make room.",
        (
            "pin [a|my|the] model",
            "[keep|hold] [a|my|the] model [loaded|in memory|ready|warm|always loaded]",
            "[stop|prevent|keep] rbee from [unloading|evicting] a model",
        ),
        ("why [was|is] my model unloaded?", "what does pin do?", "models pin", "what is a pinned model?"),
    ),
    Intent(
        "models-unpin",
        "Run `rbee models unpin <model>`. The model may then be unloaded when it is idle.",
        (
            "unpin [a|my|the] model",
            "[undo|remove|release] [a|the] pin",
            "let [rbee unload|a pinned model unload|rbee evict] [a model |]again",
        ),
        ("what does unpin do?", "models unpin"),
    ),
    Intent(
        "models-backup",
        "To back up the model catalog, run `rbee models backup`.",
        (
            "[back up|backup|save] [my models|the catalog|the model catalog|the models]",
            "[make|create|do] a backup[| of my models| of the catalog]",
        ),
        ("is there a backup?", "models backup", "backup"),
    ),
    Intent(
        "models-restore",
        "To bring a backup back, run `rbee models restore`.",
        (
            "restore [my models|the catalog|a backup|the model catalog|the models]",
            "[bring back|get back|recover|load] [a backup|my models|the catalog]",
        ),
        ("models restore", "I lost my [catalog|models]", "restore"),
    ),
    Intent(
        "fit",
        "Run `rbee fit <model>`. It shows for every node and quantisation whether the model fits, and what is missing.",
        (
            "[see|find out|know|check|test|tell] [if|whether] [a|my|this|the] model [fits|will fit|can run|fits in memory|fits my gpu|is too big]",
            "[see|find out|estimate] how much memory a model [needs|takes|uses]",
            "find [a|the best] quantisation [that fits|for my gpu|]",
        ),
        (
            "does [a|this|my] model fit[| in memory| my gpu| on my gpu]?",
            "[which|what] models fit[| my gpu]?",
            "how much [vram|memory|gpu memory] does a model need?",
            "rbee fit",
            "is [a|my|this] model too [big|large]?",
        ),
    ),
    Intent(
        "tasks-list",
        "To see the tasks, run `rbee tasks list`. It shows running, queued and finished requests.",
        (
            "[list|see|show|view|get] [the|my|all|running|the running|queued] [tasks|requests|jobs]",
            "[see|look at|view|check] the queue",
            "[see|know|find out] [what rbee is doing|which requests are running|what is in the queue]",
        ),
        (
            "[which|what] [tasks|requests|jobs] are [running|waiting|queued]?",
            "what is in the queue?",
            "tasks list",
            "how long is the queue?",
        ),
    ),
    Intent(
        "tasks-show",
        "To see one task, run `rbee tasks show <task>`. It prints its state, place, times and token counts.",
        (
            "[see|show|view|get|check|inspect] [one|a|a single|a certain] [task|request|job]",
            "[see|get] the [state|details|times] of [a|one|my] [task|request|job]",
        ),
        ("what happened to my [task|request|job]?", "tasks show", "how is my [task|request|job] doing?"),
    ),
    Intent(
        "tasks-cancel",
        "To cancel a task, run `rbee tasks cancel <task>`. Its slot is free at once. Ctrl+C cancels the request that you watch.",
        (
            "[cancel|stop|abort|end|kill|interrupt] [a|my|the|one|a running] [task|request|job|prompt|generation|inference]",
            "[stop|interrupt] [the model|a model] while it [writes|answers|generates]",
        ),
        (
            "which command cancels a [task|request]?",
            "tasks cancel",
            "cancel",
            "it [writes|generates] too much, how do I stop it?",
        ),
    ),
    Intent(
        "logs",
        "To read the logs, run `rbee logs`. Add `--node <name>` or `--worker <worker>` to narrow them.",
        (
            "[read|see|show|view|get|check|find|open|print] [the|my|all|the queen's|the hive's] logs",
            "[read|see|show|find|look at] the [log|log file|log files]",
            "[see|read|get] the logs of [a node|a worker|the hive|the queen]",
            "[see|find] [error messages|errors]",
        ),
        ("where are the logs?", "logs", "where do I find [the |]error messages?", "show me the logs"),
    ),
    Intent(
        "logs-follow",
        "Run `rbee logs --follow`. New lines appear until you press Ctrl+C.",
        (
            "[follow|tail|watch|stream] [the|my] [logs|log|log lines]",
            "[see|get] [new|live] log lines[| as they come]",
            "see the logs live",
        ),
        ("can I watch the logs live?", "follow logs", "tail logs"),
    ),
    Intent(
        "why",
        "Run `rbee why`. It explains from the history what happened to a request, a worker or a node, and why.",
        (
            "[find out|see|learn|know|understand] why [a request failed|something failed|a worker crashed|it was slow|a model was unloaded|"
            "a request waited|a node was not used|my request failed]",
            "[explain|debug|analyse|investigate] a [failure|crash|failed request|decision|slow request]",
        ),
        (
            "why did [my|a|the] [request|task|worker] [fail|crash|stop|die]?",
            "why is [it|rbee|my request] [slow|waiting]?",
            "what went wrong?",
            "rbee why",
            "why does [it|rbee] not work?",
        ),
    ),
    Intent(
        "history",
        "To see the past, run `rbee history`. It is kept for 30 days.",
        (
            "[see|show|view|read|get] [the|my] [history|past|old requests|past requests|history of requests]",
            "[see|find out] what happened [yesterday|last week|in the past|before]",
        ),
        (
            "is there a history?",
            "history",
            "how long is [the|my] history kept?",
            "what happened [yesterday|last week]?",
        ),
    ),
    Intent(
        "usage",
        "To see how much was used, run `rbee usage`. It counts requests and tokens by model, node and key.",
        (
            "[see|show|count|measure|get|track] [the|my] [usage|token usage|consumption|number of requests]",
            "[see|find out|count|know] [how many tokens were used|who used how much|how much was used|how much I use]",
        ),
        (
            "how many tokens [did I use|were used]?",
            "who uses [the fleet|rbee] most?",
            "usage",
            "how much [did I use|was used]?",
        ),
    ),
    Intent(
        "sql",
        "Run `rbee sql` with a query. It works on a copy of the history, so it can change nothing.",
        (
            "[run|use|write|execute|send] [sql|a query|an sql query|sql queries|a sql query]",
            "query [the history|the database|the data] [with sql|]",
        ),
        ("can I [use|run] sql?", "sql", "is there a database?"),
    ),
    Intent(
        "audit",
        "To see who did what, run `rbee audit`. The log is chained, so that a change to it shows.",
        (
            "[see|show|read|open|check] the [audit log|audit|audit trail]",
            "[see|find out|know] who [did what|changed something|removed a node|added a key]",
        ),
        ("is there an audit log?", "audit", "who [changed|did|removed] [something|this|that]?"),
    ),
    Intent(
        "keys-create",
        "To make a key, run `rbee keys create`. A key for programs has the role infer, one for administrators the role admin.",
        (
            "[create|make|generate|add|get|issue] [a|an|another|a new] [key|api key|access key|token for the api]",
            "[give|grant] [a program|a friend|a colleague|somebody|an app] access",
        ),
        ("which command makes [a key|an api key]?", "keys create", "api key", "where do I get an api key?"),
    ),
    Intent(
        "keys-list",
        "To see the keys, run `rbee keys list`. It shows fingerprints and roles, never the keys themselves.",
        ("[list|see|show|view] [the|my|all|all the] [keys|api keys|access keys]", "[see|find out] who has access"),
        ("[which|what] keys [are there|do I have|exist]?", "keys list", "who has access?"),
    ),
    Intent(
        "keys-revoke",
        "To withdraw a key, run `rbee keys revoke <key>`. It stops working at once.",
        (
            "[revoke|withdraw|delete|remove|disable|cancel|block] [a|an|my|the|an old] [key|api key|access key]",
            "[take away|end|remove] [access|the access of a program|somebody's access]",
        ),
        ("[my|a] key [was stolen|leaked|is public|got lost]", "keys revoke", "I lost [a|my] key"),
    ),
    Intent(
        "config-show",
        "To see the settings, run `rbee config show`. It names the source of every value.",
        (
            "[see|show|view|list|print|check|read] [the|my|all] [settings|configuration|config|options]",
            "[find out|see|know] where a setting comes from",
        ),
        ("where is the [configuration|config|config file]?", "config", "config show", "which settings are there?"),
    ),
    Intent(
        "config-change",
        "Write settings into `~/.config/rbee/config.toml`, then run `rbee config show` to check them. Flags and environment win over the file.",
        (
            "[change|edit|set|write|adjust] [the|my|a] [settings|setting|configuration|config|config file|default]",
            "configure rbee",
        ),
        ("which [config file|file] does rbee read?", "configuration file", "where do I put my settings?"),
    ),
    Intent(
        "install",
        "To install rbee for your user, run `rbee install`. Existing configuration is kept.",
        (
            "install rbee[| for my user| for me| here| on this computer| on my laptop]",
            "[set up|get] rbee [for my user|on this computer|on my laptop|here]",
        ),
        ("which command installs rbee?", "install", "installation"),
    ),
    Intent(
        "install-system",
        "To install rbee for all users, run `rbee install --system`. It needs the right to write to the system folders.",
        ("install rbee [for all users|for everybody|system wide|for the whole system|as root]",),
        ("can all users share one installation?", "system install", "install system wide"),
    ),
    Intent(
        "doctor",
        "To find problems, run `rbee doctor`. It tests this installation and says what to do about each finding.",
        (
            "[find|fix|solve|diagnose|repair|troubleshoot] [a problem|problems|errors|my installation|the installation|a broken installation]",
            "[check|test] [my|the|this] installation",
            "get help with [a problem|an error]",
        ),
        (
            "[rbee|it|something|the installation] [is broken|does not work|fails]",
            "doctor",
            "what does rbee doctor do?",
            "self-test",
            "I have a problem",
            "is my installation ok?",
        ),
    ),
    Intent(
        "help",
        "Run `rbee --help`. Every command has its own help as well, for example `rbee setup --help`.",
        (
            "[see|get|list|show|find] [help|all commands|the commands|a list of commands|the help|the options of a command]",
            "learn [rbee|the commands]",
        ),
        (
            "help",
            "[which|what] commands are there?",
            "what can I type?",
            "help me",
            "is there a manual?",
            "show me all commands",
        ),
    ),
    Intent(
        "version",
        "Run `rbee --version`. The version of the queen is in `rbee queen status`.",
        ("[see|find out|check|show|get|print] [the version|my version|the version of rbee|which version I have]",),
        ("[which|what] version [is this|do I have|of rbee is this]?", "version"),
    ),
)
