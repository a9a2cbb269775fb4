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
    And the queen and the hive that run are noted
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And text came on stdout
    And the same queen and the same hive are running
    When a person runs "rbee infer --ephemeral --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And text came on stdout
    And the same queen and the same hive are running
    And no second queen or hive was started

  @L04
  Scenario: A queen that is restarted finds again what it left
    Given a running rbee
    And a worker with the model "demo"
    And the queen and the hive that run are noted
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And the newest task is noted
    When a person runs "rbee queen stop"
    Then the command exits with 0
    When a person runs "rbee queen start"
    Then the command exits with 0
    And within 10 seconds the queen lists the node "local" as reachable, with that same worker
    And the hive and the worker that ran before are the only ones
    And the noted task is in the list of tasks as it was
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And the hive and the worker that ran before are the only ones

  @L07
  Scenario: A second queen on one state folder refuses
    Given a running rbee
    And the queen and the hive that run are noted
    When the queen program is started a second time
    Then it exits with 1 and prints "ALREADY_RUNNING" with the pid of the first
    And the same queen and the same hive are running

  @L07
  Scenario: Of several keepers that start at once one starts the queen, and all are answered by it
    Given an installation where nothing runs
    When 3 persons run "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8" at once
    Then all of the commands exit with 0 and print text
    And one queen and one hive are running

  @L08
  Scenario Outline: A port that another program holds is named, with its holder and a way out
    Given an installation where nothing runs
    And another program that listens on a port
    When a person runs "rbee <daemon> start" with that port
    Then the command exits with 1
    And stderr names "PORT_IN_USE" and "RBEE_<variable>_PORT=0 rbee <daemon> start"
    And stderr names that port, the program and its pid
    And no process of this installation is running
    When a person follows the hint for the <daemon>
    Then the command exits with 0

    Examples:
      | daemon | variable |
      | queen  | QUEEN    |
      | hive   | HIVE     |

  @L09
  Scenario: A keeper of an ephemeral run is killed, and what it started ends
    Given an installation where nothing runs
    When a person starts "rbee infer --ephemeral --model {steady} --prompt 'Once upon a time' --max-tokens 3000"
    Then text arrives while a queen, a hive and a worker are running
    When that keeper is killed with SIGKILL
    Then within 20 seconds no process of this installation is left
    And nothing listens where they did
    And no run file is left

  @L09
  Scenario: An ephemeral queen whose keeper was killed stays for another who uses it
    Given an installation where nothing runs
    When a person starts "rbee infer --ephemeral --model {steady} --prompt 'Once upon a time' --max-tokens 3000"
    Then text arrives while a queen, a hive and a worker are running
    When task "other" asks "{steady}" for 300 tokens
    And task "other" has its first token
    And that keeper is killed with SIGKILL
    Then task "other" goes on to its end with 300 tokens
    And within 20 seconds no process of this installation is left
