package cli

import (
	"strconv"

	"github.com/spf13/cobra"

	"usher/deploy/brokerxml"
)

func deployCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "deploy",
		Short:   "Write what usher needs around it",
		Example: "  usher deploy broker-xml --amazon-mq > broker.xml",
	}
	c.AddCommand(deployBrokerXMLCommand())
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
