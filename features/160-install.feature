@install
Feature: rbee is installed for a person or for a whole machine, and says what it needs

  @T56
  Scenario: An install for a person makes all parts, and again it does nothing
    Given a person with an empty home folder
    When the person runs "rbee install --service --plan"
    Then the command exits with 0
    And the home folder is still empty
    When the person runs "rbee install --service"
    Then the command exits with 0
    And each of the five programs in ".local/bin" is that of this environment and runs
    And the configuration file has every setting as a comment, and all settings are the defaults
    And state and keys are closed to others
    And systemd accepts the two units, which start programs of this environment and let workers outlive them
    And stdout says how to reach the programs, to enable the service, and to keep it running after logout
    When the person runs "rbee install --service"
    Then the command exits with 0
    And stdout says "nothing to do"
    And nothing in the home folder has changed
    When the person asks the installed "rbee" for 8 tokens of the demo model, ephemerally
    Then the command exits with 0
    And text came on stdout

  @T56
  Scenario: What a person or somebody else had is never overwritten
    Given a person with an empty home folder
    And the person's file ".config/rbee/config.toml" says "[queen]\nport = 0\n# mine"
    And the person's file ".local/bin/rbee" says "#!/bin/sh\necho not ours"
    When the person runs "rbee install"
    Then the command exits with 1
    And stderr names "INSTALL_FAILED", ".local/bin/rbee was left as it is" and "hint: mv "
    And both files are as they were
    And the programs "rbee-keeper", "queen-rbee", "rbee-hive" and "llm-worker-rbee" are installed all the same

  @T57
  Scenario: An install for the machine uses its folders, and its queen starts as the unit says
    Given a person with an empty home folder
    When the person runs "rbee install --system --service --prefix {prefix}"
    Then the command exits with 0
    And below the prefix there are "usr/local/bin/rbee", "etc/rbee/config.toml", "var/lib/rbee/keys/admin.key" and "etc/systemd/system/rbee-queen.service"
    And the home folder is still empty
    When the queen is started with the command and the environment of its unit
    Then it tells systemd that it is ready, and answers as the queen of "var/lib/rbee"
    And SIGTERM ends it with 0

  @T57
  Scenario: Without the right to write there, nothing at all is made
    Given a person with an empty home folder
    And a prefix in which only its owner, somebody else, may write
    When the person runs "rbee install --system --service --prefix {prefix}" without any privilege
    Then the command exits with 1
    And stderr names "PERMISSION_DENIED", "Permission denied", "hint: sudo" and "install --system --service --prefix"
    And the prefix is still empty

  @W08
  Scenario Outline: Ctrl+C in the middle of an install leaves nothing half-made, and again it goes on
    Given a person with an empty home folder
    When Ctrl+C is pressed in the install after <steps> of its steps
    Then the command exits with 130
    And exactly <steps> parts are there, each whole
    When the person runs "rbee install --service"
    Then the command exits with 0
    When the person runs "rbee install --service"
    Then stdout says "nothing to do"

    Examples:
      | steps |
      | 1     |
      | 6     |
      | 13    |
      | 17    |

  @W07
  Scenario: Without HOME every command that needs it says what to set
    Given a person with an empty home folder
    When every command is run without HOME and RBEE_HOME
    Then each that needs a folder exits with 1, names HOME_UNUSABLE, and says what to set
    And no command failed in any other way

  @W07
  Scenario: On a read-only home every command that writes says what to set, and the others work
    Given a person with an empty home folder
    When every command is run on a read-only home
    Then each that writes exits with 1, names HOME_UNUSABLE, "Read-only file system", and says what to set
    And no command failed in any other way

  @W07
  Scenario Outline: A state folder that cannot hold anything is refused with the reason
    Given a person with an empty home folder
    And the state folder is <state>
    When the person runs "rbee infer --model demo --prompt hello"
    Then the command exits with 1
    And stderr names "HOME_UNUSABLE", "<reason>" and "<hint>"
    When the daemons are started by hand
    Then each exits with 1 and names "HOME_UNUSABLE", "<reason>" and "<hint>"

    Examples:
      | state           | reason                  | hint             |
      | a file          | not a folder            | export RBEE_HOME |
      | on a full disk  | No space left on device | df -h            |
      | a relative path | not an absolute path    | export RBEE_HOME |

  @W07
  Scenario Outline: Any folder will do as a home, however it is called
    Given a person with an empty home folder
    And a home folder called "<name>"
    When the person runs "rbee infer --ephemeral --model demo --max-tokens 8 --prompt 'Once upon a time'"
    Then the command exits with 0
    And text came on stdout

    Examples:
      | name                            |
      | Bienen stöcke 蜂 $HOME 100% 'x' |
      | {two hundred letters}           |
