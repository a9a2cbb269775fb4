@recovery
Feature: What breaks is mended as far as it can be, and told

  @F10
  Scenario: The disk fills up under the state folder, and requests are served all the same
    Given a running rbee whose state folder is on a disk of 32 MiB
    And a worker with the model "demo"
    When the disk is filled up
    Then each of 5 requests for 8 tokens of "demo" is answered
    And a request for 8 tokens of "{f16 demo}" is answered by a new worker
    And within 10 seconds "rbee status" names "history is not stored for now" and "df -h"
    And "rbee tasks list" shows 6 completed tasks
    When there is room again on the disk
    Then within 20 seconds "rbee status" names "history is stored again"
    When a person runs "rbee queen stop"
    Then the command exits with 0
    When a person runs "rbee queen start"
    Then the command exits with 0
    And nothing is kept aside as damaged
    And "rbee tasks list" shows 6 completed tasks

  @F10
  Scenario: The disk is full before anything runs
    Given an installation where nothing runs, on a full disk of 8 MiB
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 1
    And stderr names "HOME_UNUSABLE", "No space left on device", "bytes free of 8,388,608" and "df -h"
    And no process of this installation is running
    When there is room again on the disk
    And a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And text came on stdout

  @F11
  Scenario Outline: The queen's database is damaged or gone, and the newest backup takes its place
    Given a running rbee
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And the newest task is noted
    And the queen is restarted, which makes a backup, and stopped
    When the queen's database is <damage>
    And a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And text came on stdout
    And stderr names "queen.duckdb", "<words>" and "was restored from the backup of"
    And within 5 seconds "rbee status" names "was restored from the backup of" and "ls -l"
    And the fleet's notices tell the same
    And the noted task is in the list of tasks as it was
    And <kept>

    Examples:
      | damage                       | words             | kept                                |
      | overwritten with other bytes | could not be read | the damaged file is kept as it was  |
      | cut off                      | could not be read | the damaged file is kept as it was  |
      | damaged in one of its blocks | could not be read | the damaged file is kept as it was  |
      | gone                         | was gone          | nothing is kept aside as damaged    |

  @F11
  Scenario: No backup can be read either
    Given a running rbee
    And the queen is restarted, which makes a backup, and stopped
    When every backup of the queen is overwritten with other bytes
    And the queen's database is overwritten with other bytes
    And a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And stderr names "there is no backup that can be; an empty one was made"
    And the damaged file is kept as it was

  @F11
  Scenario: Backups are made while the daemons run
    Given a running rbee with the settings
      | RBEE_POLICY_BACKUP_S | 1 |
    Then within 10 seconds a daily backup of the queen and one of the hive is there

  @F12
  Scenario: A database of a newer version is refused by name and left as it is
    Given a running rbee
    And the queen is restarted, which makes a backup, and stopped
    And a newer rbee has migrated the queen's database
    When a person runs "rbee queen start"
    Then the command exits with 1
    And stderr names "STATE_SCHEMA_NEWER", "queen.duckdb" and "pip install --upgrade rbee"
    And stderr names both versions of the schema
    And the queen's database is as the newer rbee left it
    And nothing is kept aside as damaged

  @F12
  Scenario: A database of an older version is migrated, and its backup is kept
    Given a running rbee
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 0
    And the newest task is noted
    And the queen is restarted, which makes a backup, and stopped
    When a queen with one more migration is started
    Then the command exits with 0
    And the noted task is in the list of tasks as it was
    And a backup of the older version, made before the migration, holds the noted task

  @F13
  Scenario: The queen is killed while one task runs and two wait
    Given a running rbee with the settings
      | RBEE_HIVE_CPU_CORES | 1 |
    And a worker with the model "{steady}" and 1 slots
    When task "running" asks "{steady}" for 3000 tokens
    And task "running" has its first token
    And task "attached" asks "{steady}" for 5 tokens
    And task "detached" is left with the queen, for 6 tokens of "{steady}"
    And some text of task "running" is kept on the disk
    And the queen is killed with SIGKILL
    And a person runs "rbee queen start"
    Then the command exits with 0
    And task "running" has failed with "QUEEN_RESTARTED"
    And "rbee tasks show" of it names the command that shows its text
    And that command prints the text so far
    And task "attached" is completed with 5 tokens
    And task "detached" is completed with 6 tokens
    And that same worker did all of it
