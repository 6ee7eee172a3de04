// SPDX-License-Identifier: GPL-2.0
/*
 * A GPIO chip with DHT22 sensors at its lines, for the kernel's own driver, dht11.
 *
 * When the driver has held a line low for its start pulse and lets it go, a timer plays what a
 * sensor would: 80 us low, 80 us high, then 40 bits of 50 us low and 26 us (0) or 70 us (1) high
 * (AM2302 manual). Each frame of a line has other values: frame k is 30.0 % + k * 0.3 %, from 90 %
 * on again from 30 %, and -20.0 C + k * 0.1 C. The sensor at line 4 is a clone, which sends a
 * temperature below zero as a two's complement. Some frames are faulty, by their number:
 *
 *     k % 10 == 3            a wrong checksum
 *     k % 10 == 6            no answer
 *     k % 10 == 8            an answer that comes late, after 200 us in place of 30
 *     100 <= k < 110         no answer: the sensor is dead for a while
 *
 * What is played is told in the kernel's log: "dht_line: GPIO11 frame 5: 315 -195 good".
 */
#include <linux/gpio/driver.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/platform_device.h>

#define LINES 28	/* as many as a Pi's header has */
#define CLONE 4	/* the line of a clone */
#define BITS 40
#define EDGES (2 + 2 * BITS + 2)	/* low and high: the preamble, the bits, and the end */
#define START_PULSE_NS (1000 * 1000)	/* at least; AM2302 manual */

struct line {
	struct hrtimer timer;
	unsigned int number;
	unsigned int irq_type;	/* which edges the driver wants to be told of */
	bool is_masked;
	bool is_output;
	bool is_high;
	ktime_t low_since;	/* that the driver pulls the line low */
	unsigned int frame;
	unsigned int edge;	/* the next one to play */
	unsigned int durations[EDGES];	/* us before each edge */
};

struct chip {
	struct gpio_chip gpio;
	struct line lines[LINES];
};

static void set_level(struct chip *chip, struct line *line, bool is_high)
{
	unsigned int wanted = is_high ? IRQ_TYPE_EDGE_RISING : IRQ_TYPE_EDGE_FALLING;

	if (is_high == line->is_high)
		return;
	line->is_high = is_high;
	if (!line->is_masked && line->irq_type & wanted)
		generic_handle_domain_irq(chip->gpio.irq.domain, line->number);
}

static enum hrtimer_restart play(struct hrtimer *timer)
{
	struct line *line = container_of(timer, struct line, timer);
	struct chip *chip = container_of(line, struct chip, lines[line->number]);

	set_level(chip, line, line->edge % 2);	/* the first edge pulls it low */
	line->edge++;
	if (line->edge == EDGES)
		return HRTIMER_NORESTART;
	hrtimer_add_expires_ns(timer, line->durations[line->edge] * 1000);
	return HRTIMER_RESTART;
}

/* Prepare the next frame, and begin to play it. */
static void answer(struct line *line)
{
	unsigned int k = line->frame++;
	int humidity = 300 + k * 3 % 600;
	int temperature = -200 + (int)(k % 600);
	u8 bytes[5], fault = k % 10;
	const char *kind = "good";
	unsigned int i;

	bytes[0] = humidity >> 8;
	bytes[1] = humidity;
	if (line->number == CLONE) {
		bytes[2] = temperature >> 8;
		bytes[3] = temperature;
	} else {
		bytes[2] = abs(temperature) >> 8 | (temperature < 0 ? 0x80 : 0);
		bytes[3] = abs(temperature);
	}
	bytes[4] = bytes[0] + bytes[1] + bytes[2] + bytes[3];
	line->durations[0] = 30;
	if (fault == 6 || (k >= 100 && k < 110)) {
		kind = "silent";
	} else if (fault == 3) {
		bytes[4] ^= 0x10;
		kind = "checksum";
	} else if (fault == 8) {
		line->durations[0] = 200;
		kind = "late";
	}
	pr_info("dht_line: GPIO%u frame %u: %d %d %s\n", line->number, k, humidity, temperature, kind);
	if (!strcmp(kind, "silent"))
		return;
	line->durations[1] = line->durations[2] = 80;
	for (i = 0; i < BITS; i++) {
		bool bit = bytes[i / 8] & 0x80 >> i % 8;

		line->durations[3 + 2 * i] = 50;
		line->durations[4 + 2 * i] = bit ? 70 : 26;
	}
	line->durations[EDGES - 1] = 50;
	line->edge = 0;
	hrtimer_start(&line->timer, ns_to_ktime(line->durations[0] * 1000), HRTIMER_MODE_REL_HARD);
}

static int get_direction(struct gpio_chip *gpio, unsigned int number)
{
	struct chip *chip = gpiochip_get_data(gpio);

	return chip->lines[number].is_output ? GPIO_LINE_DIRECTION_OUT : GPIO_LINE_DIRECTION_IN;
}

static int direction_output(struct gpio_chip *gpio, unsigned int number, int value)
{
	struct chip *chip = gpiochip_get_data(gpio);
	struct line *line = &chip->lines[number];

	hrtimer_cancel(&line->timer);
	line->is_output = true;
	line->is_high = value;
	line->low_since = ktime_get();
	return 0;
}

/* The pull-up resistor pulls the line high, and the sensor answers if the pulse was long enough. */
static int direction_input(struct gpio_chip *gpio, unsigned int number)
{
	struct chip *chip = gpiochip_get_data(gpio);
	struct line *line = &chip->lines[number];
	bool is_started = line->is_output && !line->is_high &&
			  ktime_to_ns(ktime_sub(ktime_get(), line->low_since)) >= START_PULSE_NS;

	line->is_output = false;
	line->is_high = true;
	if (is_started)
		answer(line);
	return 0;
}

static int get(struct gpio_chip *gpio, unsigned int number)
{
	struct chip *chip = gpiochip_get_data(gpio);

	return chip->lines[number].is_high;
}

static void set(struct gpio_chip *gpio, unsigned int number, int value)
{
	struct chip *chip = gpiochip_get_data(gpio);

	chip->lines[number].is_high = value;
}

static struct line *line_of(struct irq_data *data)
{
	struct chip *chip = gpiochip_get_data(irq_data_get_irq_chip_data(data));

	return &chip->lines[irqd_to_hwirq(data)];
}

static void mask(struct irq_data *data)
{
	line_of(data)->is_masked = true;
	gpiochip_disable_irq(irq_data_get_irq_chip_data(data), irqd_to_hwirq(data));
}

static void unmask(struct irq_data *data)
{
	gpiochip_enable_irq(irq_data_get_irq_chip_data(data), irqd_to_hwirq(data));
	line_of(data)->is_masked = false;
}

static int set_type(struct irq_data *data, unsigned int type)
{
	line_of(data)->irq_type = type;
	return 0;
}

static const struct irq_chip irq_chip = {
	.name = "dht_line",
	.irq_mask = mask,
	.irq_unmask = unmask,
	.irq_set_type = set_type,
	.flags = IRQCHIP_IMMUTABLE,
	GPIOCHIP_IRQ_RESOURCE_HELPERS,
};

static int probe(struct platform_device *device)
{
	struct chip *chip = devm_kzalloc(&device->dev, sizeof(*chip), GFP_KERNEL);
	unsigned int i;

	if (!chip)
		return -ENOMEM;
	for (i = 0; i < LINES; i++) {
		struct line *line = &chip->lines[i];

		line->number = i;
		line->is_high = line->is_masked = true;
		hrtimer_init(&line->timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
		line->timer.function = play;
	}
	chip->gpio.label = "dht_line";
	chip->gpio.parent = &device->dev;
	chip->gpio.owner = THIS_MODULE;
	chip->gpio.base = -1;
	chip->gpio.ngpio = LINES;
	chip->gpio.get_direction = get_direction;
	chip->gpio.direction_input = direction_input;
	chip->gpio.direction_output = direction_output;
	chip->gpio.get = get;
	chip->gpio.set = set;
	chip->gpio.irq.handler = handle_simple_irq;
	chip->gpio.irq.default_type = IRQ_TYPE_NONE;
	gpio_irq_chip_set_chip(&chip->gpio.irq, &irq_chip);
	return devm_gpiochip_add_data(&device->dev, &chip->gpio, chip);
}

static const struct of_device_id matches[] = {
	{ .compatible = "dht22,line" },
	{ }
};
MODULE_DEVICE_TABLE(of, matches);

static struct platform_driver dht_line_driver = {
	.probe = probe,
	.driver = { .name = "dht_line", .of_match_table = matches },
};
module_platform_driver(dht_line_driver);

MODULE_DESCRIPTION("DHT22 sensors, simulated at the lines of a GPIO chip");
MODULE_LICENSE("GPL");
