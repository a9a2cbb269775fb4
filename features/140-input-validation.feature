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
