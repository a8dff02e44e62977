package cli

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"usher/account"
	"usher/deploy/brokerxml"
	"usher/deploy/check"
	"usher/server"
)

func deployCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "deploy",
		Short:   "Write what usher needs around it, and check it",
		Example: "  usher deploy broker-xml --amazon-mq > broker.xml\n  usher deploy check --broker b-1234 --table usher-prod --api a1b2c3 --stage prod",
	}
	c.AddCommand(deployBrokerXMLCommand(), deployCheckCommand())
	return c
}

func deployBrokerXMLCommand() *cobra.Command {
	var o brokerxml.Options
	c := &cobra.Command{
		Use:   "broker-xml",
		Short: "Write the configuration of an ActiveMQ for usher",
		Long: `Write the configuration of an ActiveMQ for usher: a lane for each priority, the
scheduler, dead-letter queues, and the plugins that usher asks. It goes to
standard output. Comments in it say what each part is for.

For Amazon MQ it is the data of a configuration, and in force after a reboot of
the broker. For an ActiveMQ of your own it takes the place of conf/activemq.xml.`,
		Example: `  usher deploy broker-xml --amazon-mq > broker.xml
  usher deploy broker-xml > conf/activemq.xml
  usher deploy broker-xml --stomp 0.0.0.0:61613 --data /var/lib/activemq`,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := strconv.ParseUint(o.STOMP, 10, 16); err == nil {
				o.STOMP = "127.0.0.1:" + o.STOMP
			}
			if err := brokerxml.Write(c.OutOrStdout(), o); err != nil {
				return usageError{err}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&o.AmazonMQ, "amazon-mq", false, "for Amazon MQ: only what it permits")
	c.Flags().StringVar(&o.Queue, "queue", "", "where producers send, as in broker.queue (default usher.work)")
	c.Flags().StringVar(&o.STOMP, "stomp", "", "host:port for STOMP, or a port of this machine only (default "+brokerxml.DefaultSTOMP+")")
	c.Flags().StringVar(&o.OpenWire, "openwire", "", "host:port for JMS clients (default none)")
	c.Flags().StringVar(&o.Data, "data", "", "folder of the broker's files (default "+brokerxml.DefaultData+", from its start script)")
	return c
}

func deployCheckCommand() *cobra.Command {
	var site check.Site
	c := &cobra.Command{
		Use:   "check",
		Short: "Compare what an AWS account has with what usher needs",
		Long: `Look at the broker, its configuration in force, the tables with their indexes, and
the WebSocket API in the AWS account of the environment, and say what differs from
deploy/template.yaml. Nothing is changed. What no flag names is not looked at; the
outputs of the stack have the names. Exit 1 if something is not as it should be.

It takes the rights mq:DescribeBroker, mq:DescribeConfigurationRevision,
dynamodb:DescribeTable and apigateway:GET.`,
		Example: `  usher deploy check --broker b-1234 --table usher-prod --api a1b2c3 --stage prod
  usher deploy check --table usher-dev --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case site.Broker == "" && site.Table == "" && site.API == "":
				return usageError{errors.New("say what to look at: --broker, --table, --api")}
			case (site.API == "") != (site.Stage == ""):
				return usageError{errors.New("--api and --stage go together")}
			}
			inAccount, err := account.Load(c.Context(), "")
			if err != nil {
				return fail(exitInvalid, "%w", err)
			}
			var findings []server.Finding
			for _, f := range check.Run(c.Context(), inAccount, site) {
				finding := server.Finding{Name: f.Name, State: server.StateOK, Detail: f.Detail}
				if f.Err != nil {
					finding.State, finding.Detail, finding.Help = server.StateFailed, strings.ReplaceAll(f.Err.Error(), "\n", "; "), f.Help
				}
				findings = append(findings, finding)
			}
			if wantsJSON(c) {
				err = printJSON(c, findings)
			} else {
				err = printFindings(c, findings)
			}
			if err != nil {
				return err
			}
			return verdict(findings, true)
		},
	}
	c.Flags().StringVar(&site.Broker, "broker", "", "id of the Amazon MQ broker (output BrokerId)")
	c.Flags().StringVar(&site.Queue, "queue", "", "where producers send, as in broker.queue (default usher.work)")
	c.Flags().StringVar(&site.Table, "table", "", "what the tables' names begin with (output TablePrefix)")
	c.Flags().StringVar(&site.API, "api", "", "id of the WebSocket API (output WebSocketApiId)")
	c.Flags().StringVar(&site.Stage, "stage", "", "its stage")
	return c
}
