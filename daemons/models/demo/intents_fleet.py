"""Questions about nodes, daemons, workers and the fleet; the format is explained in `intents`."""

from daemons.models.demo.phrases import Intent

_NODE = "[node|machine|computer|gpu box|box|server|host|pc]"
_NODES = "[nodes|machines|computers|gpu boxes|boxes|servers|hosts]"

FLEET_INTENTS: tuple[Intent, ...] = (
    Intent(
        "add-node",
        "To add a node, run `rbee setup add-node --name <name> --ssh-host <host> --ssh-user <user>`. "
        "rbee checks the SSH connection and saves the node in the registry.",
        (
            "[add|register|set up|connect|attach|enroll|include|hook up|bring in] [a|another|a new|my|one more] "
            f"{_NODE}",
            f"[add|join] [a|my|another|a second] [new |remote |gpu |]{_NODE} to [the fleet|rbee|the registry|the "
            "cluster|my setup]",
            f"make rbee [use|know about|aware of] [another|a new|my other|my] {_NODE}",
            "add my gpu over ssh",
            "[extend|grow|expand] [the|my] [fleet|cluster]",
        ),
        (
            f"which command adds a {_NODE}?",
            f"I [have|bought|got] a new {_NODE}, how does rbee [use|get|learn about] it?",
            "add[-| ]node",
            f"new {_NODE}",
        ),
    ),
    Intent(
        "add-port",
        "Give the port when you add the node: `rbee setup add-node --name <name> --ssh-host <host> --ssh-port <port>`. "
        "Without the flag rbee uses port 22.",
        (
            f"add a {_NODE} [with|on|that uses|using] [another|a different|a custom|its own] [ssh |]port",
            "[use|set|change|give|choose] [a different|another|a custom|the] ssh port",
        ),
        (f"my {_NODE} listens on another ssh port", "ssh port"),
    ),
    Intent(
        "add-key",
        "Name the key file when you add the node: `rbee setup add-node --name <name> --ssh-host <host> --ssh-key "
        "<file>`. "
        "Without it rbee asks your SSH agent.",
        (
            "[use|choose|set|give|pass|specify] [a|my|the|another|a different] [ssh key|private key|ssh key file]",
            f"add a {_NODE} with [a|my|its own] [ssh |private |]key",
        ),
        ("which ssh key does rbee use?", f"my {_NODE} needs [a special|another] ssh key", "ssh key"),
    ),
    Intent(
        "list-nodes",
        "To see your nodes, run `rbee setup list-nodes`. It shows name, address, state and last contact of each node.",
        (
            f"[list|see|show|view|display|print|get|check|look at] [the|my|all|all my|all the|my registered] {_NODES}",
            f"[find out|see|know] which {_NODES} [I have|are registered|are known|rbee knows|are there]",
            f"get a list of [the|my|all] {_NODES}",
        ),
        (
            f"[which|what] {_NODES} [do I have|are registered|does rbee know|are in the fleet|are there]?",
            f"how many {_NODES} do I have?",
            f"show me [my|the|all] {_NODES}",
            "list[-| ]nodes",
            "what is in the registry?",
            f"where are my {_NODES}?",
        ),
    ),
    Intent(
        "update-node",
        "To change a node, run `rbee setup update-node --name <name>` with the settings that should change. "
        "The others stay as they are.",
        (
            f"[update|change|edit|modify|correct|alter|fix] [a|the|my] [{_NODE}|settings of a node|address of a "
            "node|user of a node]",
            f"[change|update|edit] the [ssh host|address|ip address|ssh user|settings|details] of [a|my|the] {_NODE}",
            f"give a {_NODE} [a new|another] [address|ssh host|ssh user]",
        ),
        (f"[the address of my {_NODE} changed|my {_NODE} has a new address|my {_NODE} moved]", "update[-| ]node"),
    ),
    Intent(
        "remove-node",
        "To remove a node, run `rbee setup remove-node --name <name>`. Add `--uninstall` to delete what rbee "
        "installed there.",
        (
            "[remove|delete|unregister|forget|drop|detach|disconnect|kick out|get rid of|throw out] [a|the|my|an "
            f"old] {_NODE}",
            f"[remove|delete|take] a {_NODE} [from|out of] [the fleet|rbee|the registry|the cluster]",
            f"make rbee forget [a|my] {_NODE}",
        ),
        (f"I no longer [want|need|have] [a|this|that] {_NODE}", "remove[-| ]node", f"I sold [a|my] {_NODE}"),
    ),
    Intent(
        "uninstall",
        "To uninstall rbee from a node, run `rbee setup remove-node --name <name> --uninstall`. "
        "It removes what was installed there and nothing else.",
        (
            f"uninstall [rbee|rbee from a {_NODE}|everything from a {_NODE}|the hive from a {_NODE}]",
            f"[clean|wipe|erase|clear] rbee [off|from] [a|my] {_NODE}",
            f"[delete|remove] the rbee [software|programs|files] [from|on] [a|my] {_NODE}",
        ),
        (f"does removing a {_NODE} delete the installed programs?",),
    ),
    Intent(
        "setup-install",
        "To install rbee on a node, run `rbee setup install --node <name>`. It copies rbee over SSH, builds "
        "llama.cpp for that "
        "machine and runs a self-test.",
        (
            f"install [rbee|the hive|the software|the programs] on [a|my|the|a remote|another] {_NODE}",
            f"[put|deploy|get|copy] rbee [on|onto|to] [a|my|the|a remote] {_NODE}",
        ),
        (f"which command installs rbee on a {_NODE}?", "setup install", "remote install[ation|]"),
    ),
    Intent(
        "setup-upgrade",
        "To upgrade rbee on a node, run `rbee setup install --node <name> --upgrade`. Running workers are kept.",
        (
            f"[upgrade|update] rbee on [a|my|the|a remote] {_NODE}",
            "[upgrade|update] [rbee|the hive|the version|the software]",
            f"[get|install] [a newer|the latest|a new] version [of rbee|on a {_NODE}|of rbee on a {_NODE}]",
        ),
        (f"my {_NODE} has an old version", "version mismatch", "upgrade"),
    ),
    Intent(
        "setup-check",
        "To check a node, run `rbee setup check --node <name>`. It tests SSH, Python, compiler, disk and devices "
        "and changes nothing.",
        (
            f"[check|test|verify|probe|examine|inspect] [a|my|the|one] {_NODE}",
            f"[check|test|verify] [that|if|whether] [a|my|the] {_NODE} [works|is ready|can be reached|is reachable|"
            "is fine|is ok]",
            "[check|test|verify] [the|an|my] ssh connection",
        ),
        (f"can rbee reach my {_NODE}?", f"is my {_NODE} [reachable|ready|fine|ok]?", "setup check", "does ssh work?"),
    ),
    Intent(
        "up",
        "Run `rbee up <host>`. It checks the machine over SSH, adds it as a node, installs rbee and starts the "
        "hive in one step.",
        (
            f"[do everything|set up a {_NODE}|add and install a {_NODE}|bring a {_NODE} up|prepare a {_NODE}|start "
            f"using a {_NODE}] "
            "[in one step|at once|with one command|in one go|quickly|the fast way]",
            f"[check, add, install and start|add, install and start] a {_NODE}",
            f"bring up [a|my|a new] {_NODE}",
        ),
        (
            f"what is the [fastest|quickest|easiest|simplest] way to [add|set up|use|install] a {_NODE}?",
            "rbee up",
            "what does rbee up do?",
        ),
    ),
    Intent(
        "up-plan",
        "Run `rbee up <host> --plan`. It prints the steps that rbee would take on that machine and changes nothing.",
        (
            f"see [what|the steps that] rbee [up |]would [do|change|take] [on a {_NODE}|before it does it|]",
            "[see|show|print|preview|view] the [plan|steps|changes] [before|without] [installing|anything is "
            "changed|changing anything]",
            "[do|make] a dry run",
        ),
        ("dry run", f"what would rbee [up |]change on my {_NODE}?", "is there a dry run?"),
    ),
    Intent(
        "cordon",
        "To stop new work on a node, run `rbee node cordon <name>`. Running requests go on.",
        (
            f"cordon [a|the|my] {_NODE}",
            f"[stop|keep|prevent|block] new [work|requests|tasks|jobs] [on|from reaching] [a|my|the] {_NODE}",
            f"[pause|disable|exclude|skip] [a|my|the] {_NODE}",
            f"send no [more|new] [work|requests|tasks] to [a|my|the] {_NODE}",
        ),
        ("what does cordon do?", "what is cordon?", "node cordon"),
    ),
    Intent(
        "uncordon",
        "To let a node take work again, run `rbee node uncordon <name>`.",
        (
            f"uncordon [a|the|my] {_NODE}",
            f"[allow|accept|permit] [work|requests|tasks|jobs|new work] on [a|my|the] {_NODE} again",
            f"[enable|resume|use|unpause|re-enable] [a|my|the] {_NODE} again",
            "[undo|lift|end|cancel|reverse] [a|the] cordon",
        ),
        ("what does uncordon do?", "node uncordon"),
    ),
    Intent(
        "drain",
        "To empty a node, run `rbee node drain <name>`. It takes no new work, running requests finish, then its "
        "workers stop.",
        (
            f"drain [a|the|my] {_NODE}",
            f"[empty|free] [a|my|the] {_NODE}",
            f"[take|get] a {_NODE} [down|offline|out of service] [for maintenance|safely|gracefully|without losing "
            "requests]",
            f"[reboot|repair|switch off|shut down|restart|turn off] a {_NODE} [safely|without losing requests|for "
            "maintenance]",
        ),
        ("what does drain do?", "node drain", f"I [want|need|have] to [reboot|repair] my {_NODE}"),
    ),
    Intent(
        "workers-list",
        "To see the workers, run `rbee workers list`. It shows model, node, device, state and free slots of every "
        "worker.",
        (
            "[list|see|show|view|display|get|print] [the|my|all|all the|running|all running] workers",
            "[see|find out|know] which workers [are running|exist|I have|are there]",
            "get a list of [the|all] workers",
        ),
        (
            "[which|what] workers [are running|do I have|exist|are there]?",
            "how many workers [are running|do I have]?",
            "show me [the|my|all] workers",
            "workers list",
        ),
    ),
    Intent(
        "workers-health",
        "To check workers, run `rbee workers health --node <name>`. Each worker of that node is asked now.",
        (
            "[check|see|test|verify|ask] [the health of|the state of|whether|if] [a worker|my workers|the workers]"
            "[| is healthy| is alive| are healthy]",
            "[check|test|verify|ping] [a worker|my workers|the workers]",
            "do a health check[| of the workers| on workers]",
        ),
        (
            "are my workers [healthy|alive|ok|fine|well]?",
            "is [my|the|this] worker [healthy|alive|ok|fine]?",
            "workers health",
            "health check",
        ),
    ),
    Intent(
        "workers-start",
        "To start a worker, run `rbee workers start --model <model> --node <name>`. The model is loaded and stays "
        "ready for requests.",
        (
            "[start|launch|spawn|create|run|bring up|open] [a|another|a new|one more|my] worker",
            "[load|preload|warm up|prepare] a model [in advance|before the first request|ahead of time|into memory|"
            "on the gpu|]",
            "start a worker [for|with] [a|my] model",
        ),
        ("which command starts a worker?", "workers start", "spawn worker", "warm up"),
    ),
    Intent(
        "workers-shutdown",
        "To stop a worker, run `rbee workers shutdown --id <worker>`. It finishes its requests, frees its memory "
        "and exits.",
        (
            "[stop|shut down|end|terminate|kill|quit|close|turn off|halt] [a|the|my|one|an idle] worker",
            "[unload|free|release] [a model from memory|the memory of a worker|the memory of a model|gpu memory|"
            "video memory|vram]",
        ),
        (
            "which command stops a worker?",
            "workers shutdown",
            "[my gpu memory is full|the vram is full], what can I stop?",
        ),
    ),
    Intent(
        "ps",
        "To see what is loaded, run `rbee ps`. It lists the loaded workers with model, node, device and free slots.",
        (
            "[see|show|list|find out] [which models are loaded|the loaded models|what is loaded|loaded models|"
            "models in memory]",
            "[see|know] [which model is in memory|what is in memory|what sits in vram]",
        ),
        (
            "[which|what] models are [loaded|in memory|running]?",
            "what is [loaded|running|in memory] [now|right now|at the moment|]?",
            "ps",
            "what does rbee ps show?",
        ),
    ),
    Intent(
        "status",
        "To see the whole fleet, run `rbee status`. It shows queen, nodes, workers and the queue at a glance.",
        (
            "[see|check|show|view|get] [the status|the fleet|the state of the fleet|the whole fleet|an overview|"
            "the state of rbee]",
            "[check|see|know|find out] [if|whether] [rbee|the fleet|everything] [is running|works|is ok|is up|is fine]",
        ),
        (
            "what is the [status|state] [of the fleet|of rbee|]?",
            "is [rbee|everything|it] [running|ok|up|working|fine]?",
            "status",
            "how is [my|the] fleet[| doing]?",
            "show me the [status|fleet|overview]",
        ),
    ),
    Intent(
        "devices",
        "To see the devices, run `rbee devices`. It lists the GPUs and CPUs of all nodes with memory, use and "
        "temperature.",
        (
            "[see|list|show|view|get|check] [the|my|all|all my] [devices|gpus|graphics cards|cards|accelerators]",
            "[see|check|find out|know] [how much gpu memory is free|how hot a gpu is|the gpu temperature|free vram|"
            "gpu usage|gpu use]",
            "[check|see] that [rbee finds my gpu|my gpu is seen|the gpu is detected]",
        ),
        (
            "[which|what] [devices|gpus|graphics cards] [do I have|are there|does rbee see]?",
            "how much [vram|gpu memory] [is free|do I have]?",
            "does rbee see my gpu?",
            "devices",
            "how hot is my gpu?",
            "show me [my|the] gpus",
        ),
    ),
    Intent(
        "queen-start",
        "To start the queen, run `rbee queen start`. You rarely need it: other commands start a queen when none runs.",
        ("[start|launch|run|bring up|boot|open] [the|a|my] [queen|queen daemon|control daemon]",),
        (
            "which command starts the queen?",
            "queen start",
            "do I have to start the queen?",
            "[the|my] queen is [not running|down|off]",
        ),
    ),
    Intent(
        "queen-stop",
        "To stop the queen, run `rbee queen stop`. Running tasks get time to finish.",
        (
            "[stop|shut down|end|terminate|kill|quit|halt|turn off] [the|a|my] [queen|queen daemon|control daemon]",
            "[stop|shut down|end|quit|turn off] [rbee|everything|the whole fleet|all daemons]",
        ),
        ("which command stops the queen?", "queen stop"),
    ),
    Intent(
        "queen-status",
        "Run `rbee queen status`. It shows address, version and uptime of the queen, or that none is running.",
        (
            "[see|check|show|get|find out] [the status of the queen|whether the queen runs|if the queen is running|"
            "if the queen is alive|"
            "the address of the queen|the queen's state]",
        ),
        (
            "is [the|my|a] queen [running|alive|up|on|there]?",
            "queen status",
            "where is [the|my] queen?",
            "[what|which] address [does|has] the queen[ have|]?",
            "which port does the queen use?",
        ),
    ),
    Intent(
        "queen-service",
        "Run `rbee queen service`. It writes a systemd unit, so that the queen starts with the machine.",
        (
            "[start|run] the queen [at boot|on boot|when the machine starts|as a service|automatically|with systemd]",
            "[make|install|create|write|get] a [systemd unit|service|systemd service|boot service] [for the queen|]",
            "make the queen a [service|systemd service]",
        ),
        ("does the queen start after a reboot?", "queen service", "systemd", "is there a [systemd unit|service]?"),
    ),
    Intent(
        "hive-start",
        "To start the hive of this machine, run `rbee hive start`. The queen also does it by itself when a request "
        "needs that node.",
        (
            "[start|launch|run|bring up|boot] [the|a|my] [hive|hive daemon|node daemon]",
            f"start the hive on [a|my] {_NODE}",
        ),
        ("which command starts [a|the] hive?", "hive start", "[the|my] hive is [not running|down|off]"),
    ),
    Intent(
        "hive-stop",
        "To stop the hive of this machine, run `rbee hive stop`. Its workers end with it.",
        (
            "[stop|shut down|end|terminate|kill|quit|halt|turn off] [the|a|my] [hive|hive daemon|node daemon]",
            f"stop the hive on [a|my] {_NODE}",
        ),
        ("which command stops [a|the] hive?", "hive stop"),
    ),
    Intent(
        "hive-status",
        "Run `rbee hive status`. It shows whether the hive is up, its version and its workers.",
        (
            "[see|check|show|get|find out] [the status of a hive|whether a hive runs|if the hive is running|if a "
            "hive is alive|the hive's state]",
        ),
        ("is [the|my|a] hive [running|alive|up|on]?", "hive status", "how is my hive?"),
    ),
    Intent(
        "hive-restart",
        "To restart the hive of this machine, run `rbee hive restart`. Its workers keep running and are adopted again.",
        (
            "[restart|reload|bounce|start again|reboot] [the|a|my] [hive|hive daemon|node daemon]",
            f"restart the hive on [a|my] {_NODE}",
        ),
        ("do workers survive a restart of the hive?", "hive restart", "which command restarts [a|the] hive?"),
    ),
    Intent(
        "tui",
        "Run `rbee` without arguments, or `rbee tui`. It opens a live screen of the whole fleet in your terminal.",
        (
            "[open|start|launch|see|use|run|get] [the tui|the screen|the live screen|the dashboard|the interface|"
            "the user interface|the control centre]",
            "[watch|monitor|observe|follow] [the fleet|my nodes|everything|rbee|my gpus] [live|in real time|on a "
            "screen]",
        ),
        (
            "is there a [dashboard|screen|user interface|gui|tui]?",
            "tui",
            "dashboard",
            "what does rbee do without arguments?",
        ),
    ),
    Intent(
        "tui-demo",
        "Run `rbee tui --demo`. It shows the screen with an invented fleet, so you can look around without any "
        "machine.",
        (
            "[try|see|open|look at|explore] the [tui|screen|dashboard] [without any machine|without nodes|with "
            "invented data|as a demo|with a demo fleet]",
        ),
        ("is there a demo of the [tui|screen|dashboard]?", "tui demo", "demo screen"),
    ),
    Intent(
        "tui-web",
        "Run `rbee tui --web`. It serves the screen to your browser.",
        ("[open|see|use|view|show|get] [the tui|the screen|the dashboard|rbee] in [a|my|the] [web |]browser",),
        ("is there a web [interface|page|ui|dashboard]?", "tui web", "web ui"),
    ),
    Intent(
        "tui-read-only",
        "Run `rbee tui --read-only`. Everything can be seen and nothing can be changed.",
        (
            "[open|show|use|run] the [tui|screen|dashboard] [read only|without changing anything|so that nothing "
            "can be changed|safely]",
            "let [a colleague|a friend|somebody] [watch|look] without [changing anything|rights to change]",
        ),
        ("is there a read only [mode|screen]?", "read only"),
    ),
)
