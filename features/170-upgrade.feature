@lifecycle @upgrade
Feature: A newer rbee beside an older one that runs works with it, or says what to do

  Scenario: After a patch everything goes on, and a restarted hive keeps its workers with their streams
    Given a running rbee
    And a worker with the model "{steady}" and 2 slots
    When task "long" asks "{steady}" for 1500 tokens
    And task "long" has its first token
    And rbee is upgraded to the next patch version
    And a person runs "rbee infer --model {steady} --max-tokens 5 --prompt hello"
    Then the command exits with 0
    And text came on stdout
    When the hive is ended as the restart of its service ends it, and started again
    Then the hive is of the new version, and has the same worker process
    And task "long" still generates
    And task "long" ends with all its 1500 tokens
    When the queen is stopped and started again
    Then the queen is of the new version, and has the same worker process
    When a person runs "rbee infer --model {steady} --max-tokens 5 --prompt hello"
    Then the command exits with 0

  @T45 @T13
  Scenario: After a bigger step old daemons are named with both versions and the command that ends them
    Given a running rbee
    And a worker with the model "demo"
    When rbee is upgraded to the next minor version
    And a person runs "rbee infer --model demo --max-tokens 5 --prompt hello"
    Then the command exits with 1
    And stderr names VERSION_MISMATCH of the queen, with both versions
    When the person runs the command of the hint
    And a person runs "rbee infer --model demo --max-tokens 5 --prompt hello"
    Then the command exits with 1
    And stderr names VERSION_MISMATCH of the hive, with both versions
    When the person runs the command of the hint
    And a person runs "rbee infer --model demo --max-tokens 5 --prompt hello"
    Then the command exits with 0
    And text came on stdout
