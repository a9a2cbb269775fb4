@workers @registry
Feature: The queen knows which workers there are, and uses them before it makes new ones

  @T09
  Scenario: The first request finds no worker and goes on to make one
    Given a running rbee
    And the list of workers is empty
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And text came on stdout
    And first the queen, then the hive and then the worker told what they did
    And the list of workers holds one idle worker with the model "demo"

  @T10
  Scenario: An idle worker that has the model is used as it is
    Given a running rbee
    And a worker with the model "demo"
    And what runs, and what was told so far, is noted
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And that same worker generated 8 tokens
    And the hive told nothing on the way
    And the hive checked, downloaded and started nothing for it
    And the list of workers holds that same worker and no other

  @T11
  Scenario: A busy worker that has the model answers on a free slot, and queues what exceeds its slots
    Given a running rbee with the settings
      | RBEE_HIVE_CPU_CORES | 1 |
    And a worker with the model "{steady}" and 2 slots
    When task "first" asks "{steady}" for 300 tokens
    And task "first" has its first token
    And task "second" asks "{steady}" for 250 tokens
    Then task "second" generates on that same worker while task "first" still does
    And the worker's 2 slots are all taken
    When task "third" asks "{steady}" for 10 tokens
    Then task "third" waits in the queue at position 1
    And task "third" has no token before one of the others has ended
    And all tasks end completed on that same worker
    And the worker's 2 slots are all free
