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

  @C03
  Scenario: A task that is cancelled while it waits never starts
    Given a running rbee
    And a worker with the model "{steady}" and 1 slot
    When task "long" asks "{steady}" for 4900 tokens
    And task "long" has its first token
    And a detached task asks "{steady}" for 4000 tokens
    And the task waits in the queue
    And the task is deleted
    Then the answer is 204
    And the task is cancelled within 1 second and its stream says so
    When task "long" is cut off
    Then the worker's 1 slots are all free
    And the worker was never asked for more than 1 generation

  @C04
  Scenario: Those who wait for a load are released at once, and the load goes on
    Given a running rbee
    When tasks "one" and "two" ask "{large}" for 4 tokens, and its worker is stopped in the middle of the load
    And tasks "one" and "two" are cancelled
    Then both have ended as cancelled within 1 second, though the load is still stopped
    And the last of them was told that the load goes on
    When the worker goes on
    Then that worker becomes idle and was never asked for a generation
    And a task for "{large}" is answered by that same worker

  @C04
  Scenario: A load that nobody waits for ends, where that is configured
    Given a running rbee with the settings
      | RBEE_QUEEN_FINISH_LOADS | false |
    When tasks "one" and "two" ask "{large}" for 4 tokens, and its worker is stopped in the middle of the load
    And tasks "one" and "two" are cancelled
    Then both have ended as cancelled within 1 second, though the load is still stopped
    And the last of them was told that the load is stopped
    When the worker goes on
    Then that worker has ended without a failure, and nothing of it is left
    And a task for "{large}" is answered by another worker

  @C06
  Scenario: Many tasks are cancelled at once
    Given a running rbee
    And a worker with the model "{steady}" and 4 slots
    When 24 detached tasks for "{steady}" are deleted at the same moment while 4 of them run
    And what queen, hive and worker hold open is noted
    And 24 detached tasks for "{steady}" are deleted at the same moment while 4 of them run
    Then every task is listed as cancelled
    And the worker's 4 slots are all free
    And worker, fleet and figures agree that nothing runs and 48 tasks were cancelled
    And queen, hive and worker hold open no more than before, but for a connection for each slot

  @T42
  Scenario: Ctrl+C in the middle of an answer
    Given a running rbee
    And a worker with the model "{steady}"
    When a person starts "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4000"
    And text has arrived on stdout
    And the person presses Ctrl+C
    Then within 1 second of it the generation has stopped and the worker's slots are free
    And the command ends with 130
    And the worker stopped at most one decode step and 50 ms after it had heard of it
    And stderr names "cancelled after"
    And the text that came is in the file that stderr names
    And the task is listed as cancelled

  @T42
  Scenario: Ctrl+C while the task waits, and while its model is loaded
    Given a running rbee
    And a worker with the model "{steady}" and 1 slot
    When task "long" asks "{steady}" for 4900 tokens
    And task "long" has its first token
    And a person starts "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4"
    And the keeper tells that it waits in the queue
    And the person presses Ctrl+C
    Then the command ends with 130
    And nothing waits in the queue within 1 second of it
    And stderr names "cancelled before the first token"
    When a person starts "rbee infer --model {large} --prompt 'Once upon a time' --max-tokens 4"
    And its worker is stopped in the middle of the load
    And the person presses Ctrl+C
    Then the command ends with 130
    And stderr names "cancelled while the model was being loaded"
    When the worker goes on
    Then that worker becomes idle and was never asked for a generation

  @F07
  Scenario: The queen is told to end while tasks run and wait
    Given an installation where nothing runs
    And a queen whose exit code is seen
    And a worker with the model "{steady}" and 1 slot
    When task "running" asks "{steady}" for 600 tokens
    And task "running" has its first token
    And task "waiting" asks "{steady}" for 4 tokens
    And a detached task asks "{steady}" for 20 tokens
    And the queen is told to end with SIGTERM
    Then task "waiting" is told at once that the queen is ending
    And a new task is refused with 503 and the code "DRAINING"
    And task "running" ends with all its 600 tokens
    And the queen exits with 0
    When the queen is started again
    Then the detached task is there and ends with its 20 tokens
