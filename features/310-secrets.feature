@security @secrets
Feature: Keys are kept, changed and never shown

  @S03
  Scenario: Logs and databases hold no key, only fingerprints
    Given a running rbee
    And a worker with the model "demo"
    When right and wrong keys are used on every daemon
    Then no file but the key files and the run files of workers holds any of these keys
    And the logs tell the keys of queen and hive by their fingerprints

  @S04
  Scenario Outline: A key file that is not as it should be is refused with the command that mends it
    Given an installation where nothing runs
    And a key file "<name>" that <fault>
    When a person runs "rbee <daemon> start"
    Then the command exits with 1
    And stderr names "KEY_FILE_INVALID" and the path of that file
    When a person runs the command of the hint and starts the <daemon> again
    Then the <daemon> runs

    Examples:
      | name  | daemon | fault              |
      | admin | queen  | others may read    |
      | infer | queen  | is empty           |
      | hive  | hive   | has two lines      |

  @S04
  Scenario: SIGHUP takes in new keys while streams run
    Given a running rbee
    And a worker with the model "{steady}"
    When task "long" asks "{steady}" for 400 tokens
    And task "long" has its first token
    And all keys are replaced and queen and hive get SIGHUP
    Then the new keys are accepted and the old ones refused
    And the queen reaches its hive with the new key
    And task "long" runs to its end with 400 tokens
    When a key file is broken and queen and hive get SIGHUP
    Then the keys stay as they were, and the logs say so with the command that mends it

  @S05
  Scenario: Every daemon has a key of its own, and a worker's is seen nowhere
    Given a running rbee
    And a worker with the model "demo"
    And another worker with the model "{f16 demo}"
    When right and wrong keys are used on every daemon
    Then the keys of queen, hive and both workers all differ
    And a worker's key is in no command line, no environment, no log and no answer of the queen

  @S06
  Scenario: Failures tell neither secrets nor the inside
    Given a running rbee
    And a worker with the model "demo"
    When the daemons are asked for what fails, even inside
    Then at least one of them failed inside
    And no answer holds a key, a stack trace, a source file or the home folder of the person

  @S07
  Scenario: One request id goes through all logs
    Given a running rbee
    When a task is sent with the request id "client-7.a" that loads the model "demo"
    Then every line of that task in the logs of queen, hive and worker has the request id "client-7.a"
    When a task is sent with a request id that is no id
    Then it was given another one, and no log holds the one that was sent

  @S08
  Scenario: Escape sequences of models and logs do not reach a terminal
    Given a running rbee
    And a worker with the model "demo"
    When a person on a terminal asks for an answer that is forced to hold escape sequences
    Then the answer is shown without them
    When that answer goes into a pipe
    Then it is passed on as the model wrote it
    When a worker's log gets escape sequences and a person on a terminal reads the logs
    Then the log is shown without them
