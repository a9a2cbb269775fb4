"""Questions about tasks, logs, history, keys, settings and the installation; the format is explained in `intents`."""

from daemons.models.demo.phrases import Intent

SERVICE_INTENTS: tuple[Intent, ...] = (
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
        "To cancel a task, run `rbee tasks cancel <task>`. Its slot is free at once. Ctrl+C cancels the request "
        "that you watch.",
        (
            "[cancel|stop|abort|end|kill|interrupt] [a|my|the|one|a running] [task|request|job|prompt|generation|"
            "inference]",
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
            "[find out|see|learn|know|understand] why [a request failed|something failed|a worker crashed|it was "
            "slow|a model was unloaded|"
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
        "To make a key, run `rbee keys create`. A key for programs has the role infer, one for administrators the "
        "role admin.",
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
        "Write settings into `~/.config/rbee/config.toml`, then run `rbee config show` to check them. Flags and "
        "environment win over the file.",
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
        "To install rbee for all users, run `rbee install --system`. It needs the right to write to the system "
        "folders.",
        ("install rbee [for all users|for everybody|system wide|for the whole system|as root]",),
        ("can all users share one installation?", "system install", "install system wide"),
    ),
    Intent(
        "doctor",
        "To find problems, run `rbee doctor`. It tests this installation and says what to do about each finding.",
        (
            "[find|fix|solve|diagnose|repair|troubleshoot] [a problem|problems|errors|my installation|the "
            "installation|a broken installation]",
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
            "[see|get|list|show|find] [help|all commands|the commands|a list of commands|the help|the options of a "
            "command]",
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
