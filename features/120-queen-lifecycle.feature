@lifecycle
Feature: Daemons live as long as they should, and no longer

  @T52
  Scenario: The keeper ends, the daemons live on
    Given an installation where nothing runs
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And no keeper is running any more
    And a queen, a hive and a worker are running
    And each of the three answers

  @T53
  Scenario: An ephemeral run starts everything and takes everything down again
    Given an installation where nothing runs
    When a person starts "rbee infer --ephemeral --model {steady} --prompt 'Once upon a time' --max-tokens 300"
    Then text arrives while a queen, a hive and a worker are running
    And the command ends with 0
    And no process of this installation is left
    And nothing listens where they did
    And no run file is left

  @T54
  Scenario: A queen and a hive that are running are used and left running
    Given a running rbee
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And text came on stdout
    And the same queen and the same hive are running
    When a person runs "rbee infer --ephemeral --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And text came on stdout
    And the same queen and the same hive are running
    And no second queen or hive was started
