@validation @shared
Feature: What is wrong with a request is said before anything is done

  @V01
  Scenario Outline: The keeper refuses what is no model reference before it talks to anybody
    Given an installation where nothing runs
    And a queen's address where everything that arrives is noticed
    When a person runs "rbee infer --model <reference> --prompt hello" against that address
    Then the command exits with 2
    And stderr names "INVALID_MODEL_REF", "hf:", "file://" and "demo"
    And nothing came on stdout
    And nothing arrived at that address
    And no daemon was started

    Examples:
      | reference              |
      | gguf:llama             |
      | http://example.com/m   |
      | /etc/passwd            |

  @V01
  Scenario Outline: The queen refuses what is no model reference
    Given a running rbee with a demo worker that is only read
    When the queen is asked to run the model "<reference>"
    Then the answer is 400 with the code "INVALID_MODEL_REF"
    And the message names the accepted forms "hf:", "file://" and "demo"

    Examples:
      | reference              |
      | gguf:llama             |
      | http://example.com/m   |
      | hf:                    |
      | file://                |
      | nonsense               |

  @V02
  Scenario: A backend that does not exist is refused by keeper and queen
    Given a running rbee with a demo worker that is only read
    When the queen is asked to run the model "demo" on the backend "abacus"
    Then the answer is 400 with the code "INVALID_BACKEND"
    And the message names the accepted forms "cpu", "cuda", "metal", "vulkan" and "rocm"
    When a person runs "rbee infer --model demo --prompt hello --backend abacus"
    Then the command exits with 2
    And stderr names "INVALID_BACKEND", "cpu" and "cuda"
    And nothing came on stdout

  @V07
  Scenario Outline: All faults of a request are named at once
    Given a running rbee with a demo worker that is only read
    When <daemon> gets a request with these faults
      | field          | value     |
      | temperature    | -0.5      |
      | top_p          | 1.5       |
      | min_p          | "half"    |
      | top_k          | 2.5       |
      | repeat_penalty | 0         |
      | seed           | -1        |
      | max_tokens     | "many"    |
      | stop           | [""]      |
      | mirostat       | 3         |
      | temprature     | 0.7       |
    Then the answer is 400 with the code "INVALID_REQUEST"
    And message and details name every one of these fields
    And no work was begun

    Examples:
      | daemon     |
      | the queen  |
      | the worker |

  @V07
  Scenario: OpenAI's route names faulty and unknown fields too
    Given a running rbee with a demo worker that is only read
    When the chat route gets a request with these faults
      | field            | value   |
      | temperature      | 3       |
      | top_p            | "high"  |
      | presence_penalty | -9      |
      | max_tokens       | 0       |
      | best_off         | 2       |
    Then the answer is 400 with the code "INVALID_REQUEST"
    And message and details name every one of these fields
    And no work was begun

  @V07
  Scenario: The keeper says which value is out of range
    Given a running rbee with a demo worker that is only read
    When a person runs "rbee infer --model demo --prompt hello --temperature 9 --top-p 7"
    Then the command exits with 2
    And stderr names "INVALID_REQUEST", "temperature" and "top_p"
    And nothing came on stdout

  @V09
  Scenario: A prompt that is longer than the context is refused with both numbers and never cut
    Given a running rbee with a demo worker that is only read
    And a prompt of twice the tokens that the worker has per slot
    When the worker is asked to go on with that prompt
    Then the answer is 400 with the code "CONTEXT_OVERFLOW"
    And the message names the tokens of the prompt and of the context
    When the chat route is asked to go on with that prompt
    Then the answer is 400 with the code "CONTEXT_OVERFLOW"
    And the message names the tokens of the prompt and of the context
    When the keeper is asked to go on with that prompt
    Then the command exits with 1
    And stderr names "CONTEXT_OVERFLOW" and both numbers
    And nothing came on stdout
    And no token was generated

  @V03
  Scenario Outline: A name with control characters is refused and never echoed raw
    Given a rbee that refuses no flood, with a demo worker
    When every name that <daemon> takes is given with a newline, an escape sequence and a NUL
    Then each of these requests is answered 400 or 404, and its sentence has no control character
    And no log of this rbee holds a control character

    Examples:
      | daemon     |
      | the queen  |
      | the hive   |
      | the worker |

  @V03
  Scenario: The keeper refuses names with control characters and does not echo them
    Given a running rbee with a demo worker that is only read
    When a person names models, nodes, workers and tasks with a newline and an escape sequence
    Then each of these commands fails, and neither of its outputs has a control character

  @V04
  Scenario: Paths that lead elsewhere are refused, and what they lead to is not opened
    Given a running rbee
    And a pipe outside of the model folder, and a link to it inside
    When queen and hive are asked for models by paths that lead to that pipe
    Then each of these requests is refused with "MODEL_PATH_FORBIDDEN" or "INVALID_MODEL_REF"
    And nobody has opened that pipe
    When tasks, workers and logs are asked for by ids that are paths
    Then each of these requests is answered 400 or 404, and its sentence has no control character
    And nobody has opened that pipe

  @V06
  Scenario: SQL in names is stored as text
    Given a running rbee
    When a detached task names a model with SQL in it, and a task, a worker and a client are asked for with SQL in their ids
    Then that task is listed with its model as it was written, and so it is after a restart of the queen
    And all tables of the queen are there
