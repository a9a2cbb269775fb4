@inference
Feature: A generation arrives token by token, right to the last character

  @T36
  Scenario: Tokens are streamed as they are generated
    Given a running rbee
    And a worker with the model "{steady}"
    And the fleet's events are followed
    Then the worker's state is "idle"
    When task "story" asks "{steady}" for 200 tokens
    And task "story" has its first token
    Then the first token was read before the last one was generated
    And the worker's state is "busy"
    When task "story" has ended
    Then its token events came in order, with an index that begins at 0 and never repeats
    And its token events came over time, not in one piece
    And it ended with one event "done" that has 200 tokens, a usage and timings
    And the worker's state is "idle"
    And the fleet's events showed the worker idle, then busy, then idle

  @I04
  Scenario: The same seed gives the same text, and neighbours in a batch do not touch it
    Given a running rbee
    And a worker with the model "{f16 demo}" and 4 slots
    When the same request with seed 7 at temperature 0.9 runs twice alone
    Then both texts are the same
    And seed 8 gives another text
    When a request at temperature 0 runs alone
    And it runs again beside 3 requests with their own seeds, temperatures, penalties and biases
    Then all 4 shared a batch
    And its text is the same, up to what llama.cpp's kernels make of a batch

  @I05
  Scenario: Characters and stop strings that are split over tokens come out whole
    Given a running rbee
    And a worker with the model "demo"
    When the model has to write each of these texts, and to stop before a string
      | text                           | stop    | arrives                        |
      | Grüße, 蜂 und 🐝 für Zoë — ok  | @never@ | Grüße, 蜂 und 🐝 für Zoë — ok  |
      | one two#END# three             | #END#   | one two                        |
      | honey🐝🐝 and wax              | 🐝🐝    | honey                          |
      | #EN #END #END!#END# tail       | #END#   | #EN #END #END!                 |
    Then every stop string and every character beyond ASCII takes more than one token
    And no event holds a broken character
    And exactly the text before the stop string arrived each time
    And each generation ended because of "stop", with the tokens it generated counted

  @T41
  Scenario: A worker is killed in the middle of an answer
    Given a running rbee
    And a worker with the model "{steady}"
    When a person starts "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4000"
    And text has arrived on stdout
    And the worker is killed
    Then the command ends with 1
    And stderr names "WORKER_CRASHED", "killed by SIGKILL", "of 4000 tokens" and "hint: "
    And the text that came is in the file that stderr names
    And that worker is in no list any more
    And a new request is answered

  @T41
  Scenario: The queen is killed in the middle of an answer
    Given a running rbee
    And a worker with the model "{steady}"
    When a person starts "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4000"
    And text has arrived on stdout
    And the queen is killed with SIGKILL
    Then the command ends with 1
    And stderr names "QUEEN_UNREACHABLE", "was lost before the answer was complete" and "hint: rbee queen status"
    And the text that came is in the file that stderr names
    And within 5 seconds the worker's slots are free without any queen

  @I01
  Scenario: A worker hangs in the middle of an answer
    Given a running rbee with the settings
      | RBEE_POLICY_INFERENCE_STALL_S | 2 |
    And a worker with the model "{steady}"
    When a person starts "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4000"
    And text has arrived on stdout
    And the worker is frozen
    Then the command ends with 1
    And stderr names "INFERENCE_STALLED", "for 2 s", "of 4000 tokens" and "hint: "
    And the keeper ended at most 6 seconds after the worker had been frozen
    And the text that came is in the file that stderr names
    When the worker goes on
    Then the generation has stopped and the worker's slots are free

  @F01
  Scenario: A worker dies before its first token, and another one answers
    Given a running rbee
    And a worker with the model "{steady}" and 2 slots
    And another worker with the model "{steady}" and 2 slots
    When the worker that serves the next request of this prompt is stopped with SIGSTOP
    And task "story" asks "{steady}" for 40 tokens
    And task "story" is held by the stopped worker
    And the worker is killed
    And task "story" has ended
    Then the other worker answered task "story" with all 40 tokens, in one stream without gap or double
    And the stream says that a worker was lost before its first token and the task was tried again
    And the stopped worker is in no list any more

  @F01
  Scenario: The only worker dies before its first token, and its successor answers
    Given a running rbee
    And a worker with the model "{steady}"
    When the worker that serves the next request of this prompt is stopped with SIGSTOP
    And a person starts "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 40"
    And the keeper's task is held by the stopped worker
    And the worker is killed
    Then the command ends with 0
    And text came on stdout
    And stderr names "before its first token: trying again (1 of 3)"
    And the stopped worker is in no list any more

  @T37
  Scenario: All slots are busy, and nobody may wait
    Given a running rbee with the settings
      | RBEE_QUEEN_QUEUE_LIMIT | 0 |
    And a worker with the model "{steady}" and 1 slot
    When task "long" asks "{steady}" for 4900 tokens
    And task "long" has its first token
    And the worker itself is asked for one more generation
    Then the answer is 503 with the code "ALL_SLOTS_BUSY"
    And it tells of 1 slot in all and 1 busy, and when to come back
    When a person runs "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4"
    Then the command exits with 1
    And nothing came on stdout
    And the keeper tried 4 times, and told each of its 3 waits
    And stderr names "QUEUE_FULL", "1 of 1 slots", "(after 3 retries)" and "hint: rbee status"
    And the queen counted 4 refusals with the code "QUEUE_FULL"
    When task "long" is cut off
    Then the worker's 1 slots are all free

  @T43
  Scenario: The queue is full
    Given a running rbee with the settings
      | RBEE_QUEEN_QUEUE_LIMIT | 1 |
    And a worker with the model "{steady}" and 1 slot
    When task "long" asks "{steady}" for 4900 tokens
    And task "long" has its first token
    And task "patient" asks "{steady}" for 4 tokens
    And one more task is asked for
    Then the answer is 503 with the code "QUEUE_FULL"
    And it tells of position 2 of at most 1, and when to come back
    When a person runs "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4"
    Then the command exits with 1
    And the keeper tried 4 times, and told each of its 3 waits
    And stderr names "QUEUE_FULL", "the queue is full (1 of 1 tasks wait)", "(after 3 retries)" and "hint: rbee status"
    When task "long" is cut off
    And task "patient" has ended
    Then the worker's 1 slots are all free

  @I03
  Scenario: Two requests race for the last slot
    Given a running rbee
    And a worker with the model "{steady}" and 2 slots
    When task "long" asks "{steady}" for 4900 tokens
    And task "long" has its first token
    And two tasks ask "{steady}" for 4000 tokens at the same moment
    Then one of the two runs and the other one waits at position 1
    And the worker, the fleet and the figures of the queen all tell of 2 busy slots and 1 waiting task
    When every task is cut off
    Then the worker's 2 slots are all free
    And the figures of the queen tell of no task
