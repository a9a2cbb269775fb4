"""What rbee is, what its words mean, and small talk; the format is explained in `intents`."""

from daemons.models.demo.phrases import Intent

TALK_INTENTS: tuple[Intent, ...] = (
    Intent(
        "hello",
        "Hello! I am the demo model of rbee. Ask me about its commands, or ask for a story about bees.",
        (),
        (
            "hello",
            "hi",
            "hey",
            "good [morning|evening|day|afternoon]",
            "[hello|hi|hey] [there|rbee|bee|friend|demo]",
            "[hello|hi], how are you?",
            "how are you?",
            "greetings",
            "[hi|hello|hey]!",
        ),
    ),
    Intent(
        "who",
        "I am the demo model of rbee, a very small language model. I know rbee's commands and stories about bees, "
        "and little else.",
        (),
        (
            "who are you?",
            "what are you?",
            "what is your name?",
            "[which|what] model are you?",
            "are you [a robot|human|an ai|chatgpt|a language model]?",
            "introduce yourself",
            "tell me about yourself",
            "what is the demo model?",
            "who am I talking to?",
            "how [big|large|smart|good] are you?",
            "who made you?",
        ),
    ),
    Intent(
        "can",
        "I can answer questions about rbee's commands and tell short stories about bees. For other things, load a "
        "larger model.",
        (),
        (
            "what can you do?",
            "what do you know?",
            "what can I ask[ you|]?",
            "what are you [good |]for?",
            "how can you help me?",
            "can you help me?",
            "what should I ask you?",
            "what can you tell me?",
        ),
    ),
    Intent(
        "thanks",
        "You are welcome!",
        (),
        (
            "[thanks|thank you|thx|many thanks|cheers]",
            "[thanks|thank you] [a lot|very much|so much|for your help]",
            "[great|good|nice|perfect|cool], [thanks|thank you]",
            "[great|perfect|nice|ok|good]",
            "that helped",
            "well done",
        ),
    ),
    Intent(
        "bye",
        "Goodbye! The bees are always here when you come back.",
        (),
        (
            "bye",
            "goodbye",
            "see you[| later| soon]",
            "good night",
            "[bye|goodbye] [then|rbee|for now]",
            "I have to go",
            "that is all",
        ),
    ),
    Intent(
        "rbee",
        "rbee turns the computers you own into one service for language models. You run it from a terminal with "
        "`rbee`.",
        ("[use|start with|get started with|begin with] rbee",),
        (
            "what is rbee?",
            "what does rbee do?",
            "[explain|describe] rbee",
            "tell me about rbee",
            "what is rbee [for|good for]?",
            "why should I use rbee?",
            "rbee",
            "what is this[| program| software]?",
            "where do I [start|begin]?",
        ),
    ),
    Intent(
        "queen",
        "The queen is the daemon that decides: it knows the nodes, queues requests, chooses where they run and "
        "sends the tokens back. "
        "See it with `rbee queen status`.",
        (),
        (
            "what is [the|a] queen?",
            "what does the queen do?",
            "what is queen-rbee?",
            "explain the queen",
            "what is the queen for?",
            "queen",
            "what does the queen decide?",
        ),
    ),
    Intent(
        "hive",
        "A hive is the daemon on each node: it keeps the models, watches the devices and starts and stops workers. "
        "See it with `rbee hive status`.",
        (),
        (
            "what is [the|a] hive?",
            "what does [a|the] hive do?",
            "what is rbee-hive?",
            "explain the hive",
            "what is a hive for?",
            "hive",
            "what are hives?",
        ),
    ),
    Intent(
        "worker",
        "A worker is a process with one loaded model. It computes the tokens and can serve several requests at once. "
        "See them with `rbee workers list`.",
        (),
        (
            "what is a worker?",
            "what does a worker do?",
            "what is llm-worker-rbee?",
            "explain workers",
            "what are workers?",
            "worker",
            "what is a worker for?",
        ),
    ),
    Intent(
        "keeper",
        "The keeper is the program you type, `rbee`. It asks the queen for everything and stores nothing itself.",
        (),
        ("what is the keeper?", "what is rbee-keeper?", "what does the keeper do?", "explain the keeper", "keeper"),
    ),
    Intent(
        "node",
        "A node is a computer that rbee may use, usually a box with a GPU. See yours with `rbee setup list-nodes`.",
        (),
        (
            "what is a node?",
            "what are nodes?",
            "explain nodes",
            "what does node mean?",
            "what is a beehive in rbee?",
            "node",
        ),
    ),
    Intent(
        "slot",
        "A slot is a place for one running request inside a worker. See the free ones with `rbee workers list`.",
        (
            "[set|change|choose|raise] the number of slots",
            "serve several requests at once",
            "run more requests [at once|in parallel|at the same time]",
        ),
        ("what is a slot?", "what are slots?", "how many requests can run at once?", "slots", "what does slot mean?"),
    ),
    Intent(
        "openai",
        "Yes. Point an OpenAI client at the queen's address with the path `/v1`, and make a key with `rbee keys "
        "create`.",
        (
            "use [the openai client|openai clients|the openai library|an openai program|the api|the http api|rbee "
            "from python] [with rbee|]",
            "[connect|use] [my app|a program|an application|python] with rbee",
            "call rbee from [python|a program|another program|my app]",
        ),
        (
            "does rbee [work with|support|speak] openai[| clients]?",
            "is there an [api|http api|openai api]?",
            "openai",
            "is rbee compatible with openai?",
            "which api does rbee have?",
            "api",
        ),
    ),
    Intent(
        "network",
        "No. The demo model ships with rbee, so `rbee infer --model demo` works without network.",
        ("use rbee [offline|without internet|without network]",),
        (
            "does rbee need [the internet|a network|the cloud]?",
            "does rbee work [offline|without internet]?",
            "is my data sent to the cloud?",
            "offline",
            "do you need the internet?",
        ),
    ),
    Intent(
        "gpu-needed",
        "No. rbee also runs models on the CPU, only slower. See what it found with `rbee devices`.",
        ("use rbee without a [gpu|graphics card]",),
        (
            "do I need a gpu?",
            "does rbee need a [gpu|graphics card]?",
            "can rbee run without a gpu?",
            "is a gpu required?",
            "no gpu",
        ),
    ),
    Intent(
        "gguf",
        "GGUF is the file format of llama.cpp for language models. Get one with `rbee models pull hf:<org>/<repo>`.",
        (),
        (
            "what is [gguf|a gguf file|a gguf]?",
            "which [file format|model format|format] does rbee use?",
            "which models does rbee support?",
            "gguf",
            "what does gguf mean?",
        ),
    ),
    Intent(
        "quantisation",
        "Quantisation stores a model with fewer bits per weight, so that it needs less memory. `rbee fit <model>` "
        "shows which one fits.",
        (),
        (
            "what is [quantisation|quantization|a quantised model|q4|q8]?",
            "what does [quantised|quantized|q4|q8] mean?",
            "quantization",
            "quantisation",
            "which quantisation should I take?",
        ),
    ),
    Intent(
        "token",
        "A token is a piece of text, often a part of a word. Models read and write tokens one after the other.",
        (),
        ("what is a token?", "what are tokens?", "explain tokens", "what does token mean?", "how long is a token?"),
    ),
    Intent(
        "bee",
        "A bee is a small insect that lives in a colony, visits flowers and makes honey.",
        (),
        (
            "what is a bee?",
            "what are bees?",
            "tell me about bees",
            "what do bees do?",
            "explain bees",
            "what is a honey bee?",
        ),
    ),
    Intent(
        "honey",
        "Bees carry nectar from flowers to the hive. There they thicken it with warm air from their wings until it "
        "is honey.",
        (),
        (
            "what is honey?",
            "how do bees make honey?",
            "how is honey made?",
            "where does honey come from?",
            "why do bees make honey?",
        ),
    ),
    Intent(
        "queen-bee",
        "The queen bee is the mother of the colony. She lays the eggs, and the workers feed and guard her.",
        (),
        (
            "what is a queen bee?",
            "what does [the|a] queen bee do?",
            "tell me about the queen bee",
            "who is the queen of the bees?",
        ),
    ),
)
