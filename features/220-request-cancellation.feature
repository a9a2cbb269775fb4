@inference @cancellation
Feature: Work stops when nobody wants it any more, and only then

  @C01
  Scenario: The client of an attached task vanishes in the middle of its answer
    Given a running rbee
    And a worker with the model "{steady}" and 2 slots
    When a person starts "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4000"
    And text has arrived on stdout
    And the keeper is killed with SIGKILL
    Then within 1 second the generation has stopped and the worker's 2 slots are free
    And no further token is generated
    And the task is listed as cancelled
    And the queen's log says that the client of this task went away

  @C07
  Scenario: The client of a detached task vanishes and another one reads on
    Given a running rbee
    And a worker with the model "{steady}"
    When a detached task asks "{steady}" for 300 tokens
    Then it is accepted with 202, its id and the address of its events
    When a reader takes 5 token events and then drops its connection
    Then the generation goes on without any reader
    When another reader goes on after the last event that the first one had
    Then both readers together have every event once, without gap or double
    And both readers together have the text and the 300 tokens that a reader of the whole stream has

  @C02
  Scenario: Deleting a request stops it, and may be repeated
    Given a running rbee
    And a worker with the model "{steady}"
    When a detached task asks "{steady}" for 4000 tokens
    And the task has its first token
    And the task is deleted
    Then the answer is 204
    And the generation has stopped and the worker's slots are free
    And the task's events end with exactly one last event, which says that it was cancelled
    When the task is deleted
    Then the answer is 204
    When a task with an unknown id is deleted
    Then the answer is 404 with the code "TASK_NOT_FOUND"
