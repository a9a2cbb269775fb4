@cli
Feature: What a person types, and what comes back

  @T55 @shared
  Scenario Outline: Every refusal has the same five parts, and a code that stands in the table
    Given a running rbee with a demo worker that is only read
    When <daemon> is asked <what>
    Then the answer is <status> with the code "<code>"
    And the error has code, message, details, hint and request id, and nothing is missing from them
    And the table of errors has that code with that status
    And the request id is the one in the header of the answer

    Examples:
      | daemon     | what                               | status | code                 |
      | the queen  | without a key                      | 401    | INVALID_API_KEY      |
      | the queen  | for an address that does not exist | 404    | ROUTE_NOT_FOUND      |
      | the queen  | with a method that does not fit    | 405    | METHOD_NOT_ALLOWED   |
      | the queen  | with a body that is not JSON       | 400    | INVALID_REQUEST      |
      | the queen  | with a body over the limit         | 413    | BODY_TOO_LARGE       |
      | the queen  | for an unknown task                | 404    | TASK_NOT_FOUND       |
      | the queen  | to end an unknown worker           | 404    | WORKER_NOT_FOUND     |
      | the queen  | for the workers of an unknown node | 404    | NODE_NOT_FOUND       |
      | the queen  | for the fleet with the key for inference | 403 | ROLE_FORBIDDEN     |
      | the hive   | without a key                      | 401    | INVALID_API_KEY      |
      | the hive   | for an address that does not exist | 404    | ROUTE_NOT_FOUND      |
      | the hive   | for a worker with an unknown model | 404    | MODEL_NOT_FOUND      |
      | the hive   | for a worker on an unknown device  | 404    | DEVICE_NOT_FOUND     |
      | the hive   | for a worker on a missing backend  | 409    | BACKEND_UNAVAILABLE  |
      | the hive   | for a model in a forbidden folder  | 403    | MODEL_PATH_FORBIDDEN |
      | the hive   | to end an unknown worker           | 404    | WORKER_NOT_FOUND     |
      | the worker | without a key                      | 401    | INVALID_API_KEY      |
      | the worker | for an address that does not exist | 404    | ROUTE_NOT_FOUND      |
      | the worker | with a body that is not JSON       | 400    | INVALID_REQUEST      |

  @T55 @shared
  Scenario: The keeper shows code, message and hint of a failure, as text and as JSON
    Given a running rbee with a demo worker that is only read
    When a person runs "rbee workers shutdown --id w-00000000"
    Then the command exits with 1
    And stderr has code, message and hint of "WORKER_NOT_FOUND"
    When a person runs "rbee infer --model demo --node nowhere --prompt hello --json"
    Then the command exits with 1
    And the error on stderr has code, message and hint of "NODE_NOT_FOUND"

  @T60
  Scenario: A prompt on a fresh machine comes back as text
    Given an installation where nothing runs
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 24 --temperature 0"
    Then the command exits with 0
    And stdout holds the generated text and nothing else
    And stderr tells the steps of keeper, queen, hive and worker
    And stderr tells tokens, tokens per second and the time to the first token
    When a person pipes "Once upon a time" into "rbee infer --model demo --max-tokens 24 --temperature 0 --json"
    Then the command exits with 0
    And stdout is one JSON object with the same text, its usage and its timings

  @T61
  Scenario: All workers of all nodes are listed
    Given a running rbee
    And a worker with the model "demo" and 2 slots
    And another worker with the model "{f16 demo}" and 3 slots
    When a person runs "rbee workers list"
    Then the command exits with 0
    And stdout has a line for each of the two with node, id, state, model and slots
    When a person runs "rbee workers list --json"
    Then the command exits with 0
    And stdout is JSON with a row for each of the two: node, state, model, slots in all and free

  @T29
  Scenario: The health of a node's workers is asked for now
    Given a running rbee with the settings
      | RBEE_POLICY_HTTP_TIMEOUT_S | 1 |
    And a worker with the model "demo"
    And another worker with the model "demo"
    When a person runs "rbee workers health --node local"
    Then the command exits with 0
    And stdout has a line for each of the two that says healthy and how fast it answered
    When a person runs "rbee workers health --node local --json"
    Then the command exits with 0
    And stdout is JSON in which both workers are healthy and have answered in some milliseconds
    When the second worker is frozen with SIGSTOP
    And a person runs "rbee workers health --node local --json"
    Then stdout is JSON in which the first worker is healthy and the second is not, with the reason
    When a person runs "rbee workers health --node nowhere"
    Then the command exits with 1
    And stderr names "NODE_NOT_FOUND"

  @T30
  Scenario: A worker is told to end, finishes what it does, and is gone
    Given a running rbee
    And a worker with the model "{steady}" and 2 slots
    When task "last" asks "{steady}" for 500 tokens
    And task "last" has its first token
    And a person starts "rbee workers shutdown --id {worker}"
    Then the worker is listed as draining while task "last" still generates
    And task "last" ends completed with all its 500 tokens
    And the command ends with 0
    And the worker's process has ended by itself with code 0, and its memory with it
    And the list of workers is empty
    And the hive hands out all its cores again
    When a person runs "rbee workers shutdown --id {worker}"
    Then the command exits with 1
    And stderr names "WORKER_NOT_FOUND"

  @T62
  Scenario: Logs are read once, or followed until Ctrl+C
    Given a running rbee
    And a worker with the model "demo"
    When a person runs "rbee logs --node local"
    Then the command exits with 0
    And stdout has lines of the hive and of the worker
    When a person runs "rbee logs --node local --worker {worker}"
    Then the command exits with 0
    And stdout has lines of the worker only
    When a person starts "rbee logs --node local --worker {worker} --follow"
    And text has arrived on stdout
    And the worker gets another request
    Then the line of that request arrives on stdout while the command runs
    When the person presses Ctrl+C
    Then the command ends with 130

  @W05 @secrets
  Scenario: The command line of a worker can be read, and no secret in it
    Given a running rbee
    And a worker with the model "demo"
    When a person runs "rbee workers list --json"
    Then the command exits with 0
    And the command line in the list is the one that the process has
    And the first line of the worker's log has that command line
    And no key of this installation stands in any command line on this machine
    And no key of this installation stands in what the command printed, in a log or in the worker's environment
