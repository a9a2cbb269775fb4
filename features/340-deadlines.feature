@inference @deadlines
Feature: Nobody works on what nobody waits for any more

  @C05
  Scenario: A deadline passes while the task waits, and while it generates
    Given a running rbee
    And a worker with the model "{steady}" and 1 slot
    When a person runs "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4000 --timeout 1"
    Then the command exits with 1
    And stderr names "DEADLINE_EXCEEDED", "within 1 s", "of 4000 tokens had come" and "hint: rbee infer --timeout"
    And the text that came is in the file that stderr names
    And the generation has stopped and the worker's slots are free
    When task "long" asks "{steady}" for 4900 tokens
    And task "long" has its first token
    And a person runs "rbee infer --model {steady} --prompt 'Once upon a time' --max-tokens 4 --timeout 1"
    Then the command exits with 1
    And nothing came on stdout
    And stderr names "DEADLINE_EXCEEDED" and "it still waited for a free slot"
    When a program asks OpenAI's route for 4000 tokens with a deadline in 0.5 seconds
    Then the answer is 408 with the code "DEADLINE_EXCEEDED"
    And the worker was never asked for more than 2 generations

  @C05
  Scenario: A deadline passes while the model is loaded
    Given a running rbee
    When a person starts "rbee infer --model {large} --prompt 'Once upon a time' --timeout 4"
    And its worker is stopped in the middle of the load
    Then the command ends with 1
    And stderr names "DEADLINE_EXCEEDED", "its model was still being loaded" and "loading it goes on"
    And nothing came on stdout
    When the worker goes on
    Then that worker becomes idle and was never asked for a generation

  @D01
  Scenario: A deadline reaches every hop unchanged, and none may move it on
    Given a running rbee
    When a task for "demo" carries a deadline in 60 seconds and a time limit of 3600
    Then hive and worker log that very deadline
    And the queen, the hive and the worker each refuse a deadline that has passed
    When a task for "{steady}" carries a deadline in 2 seconds and a time limit of 3600
    Then it ends with DEADLINE_EXCEEDED at its deadline and not later than 1 second after it
