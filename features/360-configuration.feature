@cli @configuration
Feature: Settings come from five places, the nearest one wins, and mistakes are named

  @T58
  Scenario: Flag over environment over RBEE_CONFIG over user file over system file
    Given an installation where nothing runs
    And the setting "queen.url" is given in all five places, each with its own value
    When the settings are shown with all five places in use
    Then the value and the place shown are those of the flag
    When the settings are shown without the flag
    Then the value and the place shown are those of the environment
    When the settings are shown without the environment
    Then the value and the place shown are those of the file named by RBEE_CONFIG
    When the settings are shown without the file named by RBEE_CONFIG
    Then the value and the place shown are those of the user's file
    When the settings are shown without the user's file
    Then the value and the place shown are those of the system's file
    When the settings are shown without the system's file
    Then the value and the place shown are those of the default
    And every setting is shown with its place

  @T58
  Scenario: Settings are merged key by key, and the daemons live by them
    Given an installation where nothing runs
    And the user's configuration file says
      """
      [queen]
      queue_limit = 7
      [worker]
      slots = 3
      """
    And the configuration file named by RBEE_CONFIG says
      """
      [worker]
      slots = 2
      """
    When the queen is started and a worker with the model "demo"
    Then the fleet says that 7 tasks may wait
    And that worker has 2 slots

  @W06
  Scenario Outline: A mistake in the configuration file is named with file, key and what was expected
    Given an installation where nothing runs
    And the user's configuration file says
      """
      <line>
      """
    When a person runs "rbee config show"
    Then the command exits with 1
    And stderr names "CONFIG_INVALID", the file, "<key>" and "<expected>"
    When a person runs "rbee status"
    Then the command exits with 1
    And stderr names "CONFIG_INVALID", the file, "<key>" and "<expected>"
    And no daemon was started

    Examples:
      | line                         | key               | expected                   |
      | log = { keep = "many" }      | log.keep          | valid integer              |
      | queen = { queue_limit = -1 } | queen.queue_limit | greater than or equal to 0 |
      | queen = { prot = 8080 }      | queen.prot        | unknown key                |
      | bees = { count = 3 }         | bees              | unknown key                |
      | port = 8080                  | port              | [queen]                    |
